package jinja

import (
	"fmt"
	"strings"
	"time"
)

// strftime is Python's datetime.strftime without a locale.
func (in *interp) strftime(format string) string {
	in.made(len(format) * 32)
	in.step(len(format))
	t := in.now
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		plain := false // %-d: without leading zeros
		if format[i] == '-' && i+1 < len(format) {
			plain = true
			i++
		}
		text := directive(t, format[i])
		if plain {
			if trimmed := strings.TrimLeft(text, "0 "); trimmed != "" {
				text = trimmed
			} else {
				text = "0"
			}
		}
		b.WriteString(text)
	}
	return b.String()
}

// directive is one letter after %.
func directive(t time.Time, c byte) string {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'd': "02", 'e': "_2", 'm': "01", 'y': "06", 'Y': "2006",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'D': "01/02/06", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04",
		'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05", 'r': "03:04:05 PM",
	}
	if layout, ok := layouts[c]; ok {
		return t.Format(layout)
	}
	weekday := int(t.Weekday())
	switch c {
	case '%':
		return "%"
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'j':
		return fmt.Sprintf("%03d", t.YearDay())
	case 'w':
		return fmt.Sprint(weekday)
	case 'u':
		return fmt.Sprint((weekday+6)%7 + 1)
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000)
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100)
	case 's':
		return fmt.Sprint(t.Unix())
	case 'k':
		return fmt.Sprintf("%2d", t.Hour())
	case 'l':
		return fmt.Sprintf("%2d", (t.Hour()+11)%12+1)
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-weekday)/7)
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-(weekday+6)%7)/7)
	case 'G', 'V', 'g':
		year, week := t.ISOWeek()
		switch c {
		case 'G':
			return fmt.Sprint(year)
		case 'g':
			return fmt.Sprintf("%02d", year%100)
		}
		return fmt.Sprintf("%02d", week)
	case 'z', 'Z': // a time without a zone, as datetime.now() has
		return ""
	}
	return "%" + string(c)
}
