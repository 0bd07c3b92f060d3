// Report reads what go test -json prints and prints go test's usual lines: the
// output of what failed, and one line for each package. It fails where a test
// failed, where nothing ran and, with -golden, where a test skipped because
// golden data is not there.
//
//	go test -json ./... | go run ./internal/house/report [-golden] [-counts FILE]
//
// To FILE it adds a line with how many tests passed and failed, subtests not
// counted.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
)

func main() {
	golden := flag.Bool("golden", false, "fail where a test lacks golden data")
	counts := flag.String("counts", "", "file to add the counts to")
	flag.Parse()
	log.SetFlags(0)

	sum, err := report(os.Stdout, os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	if *counts != "" {
		if err := addLine(*counts, fmt.Sprintf("%d %d\n", sum.passed, sum.failed)); err != nil {
			log.Fatal(err)
		}
	}
	switch {
	case sum.failed > 0:
		os.Exit(1)
	case sum.passed == 0:
		log.Fatal("no test ran")
	case *golden && len(sum.skipped) > 0:
		log.Fatalf("golden data is here, but these tests skipped for lack of it:\n%s", strings.Join(sum.skipped, "\n"))
	}
}

func addLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// An event is one line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	FailedBuild string
}

// A summary counts top-level tests; a package that fails without a failing
// test (it does not build, it exits) counts as one failure.
type summary struct {
	passed, failed int
	skipped        []string // for lack of golden data, with the reason
}

func report(w io.Writer, r io.Reader) (summary, error) {
	var sum summary
	output := map[string]string{} // of a test or of a build, until it is decided
	failures := map[string]int{}  // of a package
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line == "" && err == io.EOF {
			return sum, nil
		} else if err != nil && err != io.EOF {
			return sum, err
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil {
			fmt.Fprint(w, line) // the go command's own words
			continue
		}
		key := e.Package + " " + e.Test
		top := e.Test != "" && !strings.Contains(e.Test, "/")
		switch e.Action {
		case "build-output":
			output[e.ImportPath] += e.Output
		case "output":
			output[key] += e.Output
		case "pass":
			if top {
				sum.passed++
			}
		case "skip":
			if strings.Contains(output[key], "golden:") {
				sum.skipped = append(sum.skipped, key+"\n"+output[key])
			}
		case "fail":
			if e.Test != "" {
				fmt.Fprint(w, output[key])
			}
			if top {
				sum.failed++
				failures[e.Package]++
			} else if e.Test == "" && failures[e.Package] == 0 {
				sum.failed++
				fmt.Fprint(w, output[e.FailedBuild])
			}
		}
		if e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			fmt.Fprint(w, packageLines(output[key], e.Action))
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			delete(output, key)
		}
	}
}

// packageLines is what go test without -json shows of a package's own output:
// its last line where it passed.
func packageLines(output, action string) string {
	if action == "fail" {
		return output
	}
	lines := strings.SplitAfter(strings.TrimSuffix(output, "\n"), "\n")
	return lines[len(lines)-1] + "\n"
}
