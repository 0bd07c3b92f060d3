package chat_test

import (
	"strings"
	"testing"

	"github.com/herd-ml/herd/llama/chat"
)

// TestParts: templates that take strings get the text of contents that are lists, and
// those that walk lists get the lists.
func TestParts(t *testing.T) {
	const texts = `[{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]`
	const picture = `[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "two"}]}]`
	for _, c := range []struct{ template, messages, want, wrong string }{
		{"{% for m in messages %}<{{ m.content }}>{% endfor %}", texts, "<one two>", ""},
		{"{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", texts, "<one two>", ""},
		{"{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", texts, "<one two>", ""},
		{"{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}", texts, "<one ><two>", ""},
		{"{% for m in messages %}{% for p in m.content %}<{{ p.type }}>{% endfor %}{% endfor %}", picture, "<image><text>", ""},
		{"{% for m in messages %}<{{ m.content }}>{% endfor %}", picture, "", `message 0: the template takes text only: content: part 0 is of type "image"`},
		{"{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", picture, "", "chat: template"},
		{"{{ raise_exception('no') }}", texts, "", "refuses the messages: no"},
		{"{% for m in messages %}<{{ m.content | tojson }}>{% endfor %}", `[{"role": "tool", "content": [1, {"a": 2}]}]`, `<[1, {"a": 2}]>`, ""},
		{"\xef\xbb\xbf{% for m in messages %}\r\n<{{ m.content }}>{% endfor %}", "\xef\xbb\xbf" + texts, "<one two>", ""},
	} {
		template, err := chat.NewTemplate(c.template, nil)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := chat.ParseMessages([]byte(c.messages))
		if err != nil {
			t.Fatal(err)
		}
		got, err := template.Render(messages, chat.Options{})
		switch {
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %q, %v, want %s", c.template, got, err, c.wrong)
		case c.wrong == "" && (err != nil || got != c.want):
			t.Errorf("%s: %q, %v, want %q", c.template, got, err, c.want)
		}
	}
}
