package chat_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/herd-ml/herd/llama/chat"
)

// TestMessageJSON: what a message says survives JSON, a null content apart
// from a missing one, and nothing is said that was not.
func TestMessageJSON(t *testing.T) {
	for _, text := range []string{
		`{"role":"user"}`,
		`{"role":"user","content":null}`,
		`{"role":"user","content":""}`,
		`{"role":"user","content":[{"type":"text","text":"hi"}],"name":"Ada"}`,
		`{"role":"assistant","tool_calls":[{"id":"7","type":"function","function":{"name":"f","arguments":{"b":1,"a":"\u003c"}}}]}`,
		`{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"b\":1}"}}]}`,
		`{"role":"tool","content":{"z":1,"a":[2.50]},"tool_call_id":"7"}`,
	} {
		var m chat.Message
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != text {
			t.Errorf("%s became %s", text, got)
		}
	}
}

// TestText: any string comes back out of the content.
func TestText(t *testing.T) {
	for _, s := range []string{"", "plain", `"quoted"`, "a\nb\x00", "<b>&", "ü\u2028😀"} {
		m := chat.Text("user", s)
		var back string
		if err := json.Unmarshal(m.Content, &back); err != nil || back != s {
			t.Errorf("%q comes back as %q, %v", s, back, err)
		}
		if want := (chat.Message{Role: "user", Content: m.Content}); !reflect.DeepEqual(m, want) {
			t.Errorf("%+v has more than role and content", m)
		}
	}
}
