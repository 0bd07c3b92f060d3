package llama_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
)

// A long prompt is computed once. Another process goes on from a file, of the same model.
func ExampleSession_Save() {
	model, session := openSmall()
	defer model.Close()
	ctx, prompt := context.Background(), encode(model, "The file sees the king")
	if _, err := session.Logits(ctx, prompt); err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "king.session")
	if err := session.Save(ctx, file); err != nil {
		log.Fatal(err)
	}

	again, session := openSmall()
	defer again.Close()
	if err := session.Load(ctx, file); err != nil {
		log.Fatal(err)
	}
	if _, err := session.Logits(ctx, append(prompt, encode(model, " and")...)); err != nil {
		log.Fatal(err)
	}
	u := session.Usage()
	fmt.Println("held:", u.ReusedTokens == len(prompt), "computed:", u.PrefillTokens)
	// Output: held: true computed: 2
}
