package main

import (
	"strings"
	"testing"
)

// stream is what go test -json prints for a passing package, a failing one,
// one that does not build and one without tests.
const stream = `{"Action":"start","Package":"m/good"}
{"Action":"run","Package":"m/good","Test":"TestA"}
{"Action":"output","Package":"m/good","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"m/good","Test":"TestA/sub"}
{"Action":"pass","Package":"m/good","Test":"TestA"}
{"Action":"output","Package":"m/good","Test":"TestB","Output":"    b_test.go:1: golden: nothing matches x\n"}
{"Action":"skip","Package":"m/good","Test":"TestB"}
{"Action":"output","Package":"m/good","Test":"TestC","Output":"    c_test.go:1: not on this machine\n"}
{"Action":"skip","Package":"m/good","Test":"TestC"}
{"Action":"output","Package":"m/good","Output":"PASS\n"}
{"Action":"output","Package":"m/good","Output":"ok  \tm/good\t0.1s\n"}
{"Action":"pass","Package":"m/good","Elapsed":0.1}
{"Action":"output","Package":"m/bad","Test":"TestD/sub","Output":"    d_test.go:1: wrong\n"}
{"Action":"fail","Package":"m/bad","Test":"TestD/sub"}
{"Action":"output","Package":"m/bad","Test":"TestD","Output":"--- FAIL: TestD\n"}
{"Action":"fail","Package":"m/bad","Test":"TestD"}
{"Action":"output","Package":"m/bad","Output":"FAIL\tm/bad\t0.1s\n"}
{"Action":"fail","Package":"m/bad"}
{"ImportPath":"m/broken","Action":"build-output","Output":"broken.go:1: undefined: x\n"}
{"ImportPath":"m/broken","Action":"build-fail"}
{"Action":"output","Package":"m/broken","Output":"FAIL\tm/broken [build failed]\n"}
{"Action":"fail","Package":"m/broken","FailedBuild":"m/broken"}
{"Action":"output","Package":"m/none","Output":"?   \tm/none\t[no test files]\n"}
{"Action":"skip","Package":"m/none"}
go: a word of the go command
`

const shown = "ok  \tm/good\t0.1s\n" +
	"    d_test.go:1: wrong\n--- FAIL: TestD\nFAIL\tm/bad\t0.1s\n" +
	"broken.go:1: undefined: x\nFAIL\tm/broken [build failed]\n" +
	"?   \tm/none\t[no test files]\n" +
	"go: a word of the go command\n"

func TestReport(t *testing.T) {
	var out strings.Builder
	sum, err := report(&out, strings.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != shown {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), shown)
	}
	if sum.passed != 1 || sum.failed != 2 {
		t.Errorf("%d passed, %d failed, want 1 and 2", sum.passed, sum.failed)
	}
	if len(sum.skipped) != 1 || !strings.Contains(sum.skipped[0], "m/good TestB") {
		t.Errorf("skipped for lack of golden data: %q", sum.skipped)
	}
}
