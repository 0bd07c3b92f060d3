package llama_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// smallModel has random weights, so its text means nothing, but it is the same
// everywhere.
var smallModel = golden.Committed("models/tied-rope8/model.gguf")

// openSmall stands for the first lines of Example. It never rounds, as processors
// differ in how they do.
func openSmall() (*llama.Model, *llama.Session) {
	model, err := llama.Open(context.Background(), smallModel, llama.Options{Precision: llama.PrecisionF32})
	if err != nil {
		log.Fatal(err)
	}
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return model, session
}

// encode is Model.Encode with its error looked at.
func encode(model *llama.Model, text string) []int32 {
	ids, err := model.Encode(text)
	if err != nil {
		log.Fatal(err)
	}
	return ids
}

func Example() {
	ctx := context.Background()
	model, err := llama.Open(ctx, smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for token, err := range session.Generate(ctx, "The file sees the king", llama.GenerateOptions{MaxTokens: 32}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(token.Text)
	}
	// Output: ! argument argument argumentRdefault
}

// A model that may take 64 KiB only is refused before it is loaded.
func ExampleOpen() {
	_, err := llama.Open(context.Background(), smallModel, llama.Options{MemoryLimit: 64 << 10})
	fmt.Println(errors.Is(err, llama.ErrMemory))

	_, err = llama.Open(context.Background(), "nowhere.gguf", llama.Options{})
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// true
	// true
}

// Files may lie in any file system: an embed.FS, a zip archive, here a folder.
func ExampleOpenFS() {
	folder := os.DirFS(golden.Committed("models/tied-rope8"))
	for _, name := range []string{"model.gguf", "hf", "meta"} {
		model, err := llama.OpenFS(context.Background(), folder, name, llama.Options{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(name, model.Config().Params())
		model.Close()
	}
	// Output:
	// model.gguf 369312
	// hf 369312
	// meta 369312
}

// A GGUF file may come from anything that reads at an offset.
func ExampleOpenReader() {
	content, err := os.ReadFile(smallModel)
	if err != nil {
		log.Fatal(err)
	}
	r := bytes.NewReader(content)
	model, err := llama.OpenReader(context.Background(), r, r.Size(), "from memory", llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(model.Config().Layers, "layers")
	// Output: 3 layers
}

// Progress is told the bytes of weights as they are read.
func ExampleOptions() {
	var last llama.Progress
	model, err := llama.Open(context.Background(), smallModel, llama.Options{
		Precision: llama.PrecisionF32,
		Context:   2048,
		Progress:  func(p llama.Progress) { last = p },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(last.Done == last.Total)
	// Output: true
}

func ExampleOptions_Validate() {
	fmt.Println(llama.Options{Context: -1, BatchRows: -1}.Validate())
	// Output:
	// llama: Context is -1, want 0 or more
	// llama: BatchRows is -1, want 0 or more
}

// Estimate reads headers only, so it answers at once for a model of any size.
func ExampleEstimate() {
	memory, err := llama.Estimate(smallModel, llama.Options{Context: 1024})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("weights", memory.Weights>>10, "KiB, a full session", memory.Session>>10, "KiB")
	// Output: weights 722 KiB, a full session 384 KiB
}

func ExampleReadInfo() {
	info, err := llama.ReadInfo(context.Background(), smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	c := info.Config
	fmt.Println(info.Format, info.Architecture, len(info.Tensors), "tensors")
	fmt.Println(c.Heads, "heads of", c.HeadDim, "on", c.KVHeads)
	fmt.Println(info.Tensors[0].Name, info.Tensors[0].Type, info.Tensors[0].Shape)
	fmt.Println("problems:", len(info.Problems))
	// Output:
	// gguf llama 30 tensors
	// 3 heads of 32 on 1
	// rope_freqs.weight F32 [16]
	// problems: 0
}

// A GGUF file becomes a Hugging Face folder with the same numbers.
func ExampleConvert() {
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "hf")
	if _, err := llama.Convert(context.Background(), smallModel, out, llama.ConvertOptions{To: "safetensors"}); err != nil {
		log.Fatal(err)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	// Output:
	// config.json
	// model.safetensors
	// tokenizer.json
	// tokenizer_config.json
}

// What is wrong with files has a type that says where.
func ExampleFileError() {
	_, err := llama.OpenFS(context.Background(), fstest.MapFS{}, ".", llama.Options{})
	var bad *llama.FileError
	if errors.As(err, &bad) {
		fmt.Println(bad.File, bad.Reason)
	}
	// Output: . is a folder without config.json (Hugging Face) or params.json (Meta): name one with either, or a .gguf file
}

// A model of any shape, without files, to measure its speed.
func ExampleNewRandom() {
	config := llama.Config{
		Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 128, Vocab: 100, Context: 256,
		NormEps: 1e-5, RopeTheta: 10000,
	}
	model, err := llama.NewRandom(context.Background(), config, backend.Q8_0, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	logits, err := session.Logits(context.Background(), []int32{1, 2, 3})
	fmt.Println(len(logits), err)
	// Output: 100 <nil>
}

func ExampleConfig_Params() {
	for _, c := range []llama.Config{
		llama.Config135M(), llama.Config1B(), llama.Config3B(), llama.Config8B(), llama.Config70B(), llama.Config405B(),
	} {
		fmt.Printf("%.2f ", float64(c.Params())/1e9)
	}
	// Output: 0.13 1.24 3.21 8.03 70.55 405.85
}

func ExampleConfig_Validate() {
	c := llama.Config8B()
	c.Heads, c.NormEps = 30, 0
	fmt.Println(c.Validate())
	// Output:
	// Heads is 30, not a multiple of KVHeads 8
	// NormEps is 0, want between 0 and 1
}

// What a program may ask of a loaded model.
func ExampleModel() {
	model, _ := openSmall()
	defer model.Close()
	fmt.Println(model.Config().Context, "positions,", model.Config().Vocab, "tokens")
	fmt.Println("stops at", model.StopTokens())
	fmt.Println(model.Memory().Weights>>10, "KiB of weights on the", model.Describe().Device)
	// Output:
	// 131072 positions, 768 tokens
	// stops at [513 520 521]
	// 722 KiB of weights on the cpu
}

// Sessions of one model run at the same time.
func ExampleModel_NewSession() {
	model, _ := openSmall()
	defer model.Close()
	prompts := []string{"The file", "The king", "The argument"}
	counts := make([]int, len(prompts))
	var all sync.WaitGroup
	for i, prompt := range prompts {
		all.Go(func() {
			session, err := model.NewSession(llama.SessionOptions{Context: 256})
			if err != nil {
				log.Fatal(err)
			}
			defer session.Close()
			for _, err := range session.Generate(context.Background(), prompt, llama.GenerateOptions{MaxTokens: 10, IgnoreEOS: true}) {
				if err != nil {
					log.Fatal(err)
				}
				counts[i]++
			}
		})
	}
	all.Wait()
	fmt.Println(counts)
	// Output: [10 10 10]
}

// The text of special tokens becomes those tokens: a prompt is the program's,
// not a stranger's. For text that is not, use the tokenizer.
func ExampleModel_Encode() {
	model, _ := openSmall()
	defer model.Close()
	ids, err := model.Encode("the king<|eot_id|>")
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range ids {
		fmt.Printf("%d %q\n", id, model.Tokenizer().Name(id))
	}
	// Output:
	// 512 "<|begin_of_text|>"
	// 83 "t"
	// 262 "he"
	// 220 "Ġ"
	// 74 "k"
	// 269 "ing"
	// 521 "<|eot_id|>"
}

func ExampleModel_DefaultSampling() {
	model, err := llama.Open(context.Background(), golden.Committed("models/tied-rope8/hf"), llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	advised := model.DefaultSampling()
	fmt.Println(advised.Temperature, advised.TopP)
	// Output: 0.6 0.9
}

// A model that runs on slow kernels, or whose files are odd, says so. This one
// runs on one worker of its own, without vector kernels.
func ExampleModel_Warnings() {
	slow, err := cpu.New(cpu.Options{Workers: 1, Variant: "generic"})
	if err != nil {
		log.Fatal(err)
	}
	defer slow.Close()
	model, err := llama.Open(context.Background(), smallModel, llama.Options{Backend: slow})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	for _, w := range model.Warnings() {
		fmt.Println(strings.Contains(w, "no vector kernels"))
	}
	// Output: true
}

func ExampleModel_Close() {
	model, session := openSmall()
	model.Close()
	_, err := session.Logits(context.Background(), []int32{1, 2, 3})
	fmt.Println(errors.Is(err, llama.ErrClosed))
	// Output: true
}

// Tokens are drawn as the model's makers advise; the same seed draws the same.
func ExampleSession_Generate() {
	model, session := openSmall()
	defer model.Close()
	options := llama.GenerateOptions{MaxTokens: 20, Sampling: model.DefaultSampling(), Stop: []string{"\n"}}
	options.Sampling.Seed = 7
	var texts [2]string
	for i := range texts {
		for token, err := range session.Generate(context.Background(), "Once upon a time", options) {
			if err != nil {
				log.Fatal(err)
			}
			texts[i] += token.Text
		}
	}
	fmt.Println(texts[0] == texts[1])
	// Output: true
}

// Inside the loop over a generation its session is busy.
func ExampleSession() {
	model, session := openSmall()
	defer model.Close()
	for _, err := range session.Generate(context.Background(), "The file sees the king", llama.GenerateOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		_, err := session.Logits(context.Background(), []int32{1})
		fmt.Println(errors.Is(err, llama.ErrBusy))
		break
	}
	u := session.Usage()
	fmt.Println("computed:", u.PrefillTokens, "held:", session.Len())
	// Output:
	// true
	// computed: 13 held: 13
}

func ExampleGenerateOptions_Validate() {
	fmt.Println(llama.GenerateOptions{MaxTokens: -1, Stop: []string{""}}.Validate())
	// Output:
	// llama: MaxTokens is -1, want 0 or more
	// llama: Stop[0] is empty
}

func ExampleSession_GenerateIDs() {
	model, session := openSmall()
	defer model.Close()
	for token, err := range session.GenerateIDs(context.Background(), []int32{512, 196, 304}, llama.GenerateOptions{MaxTokens: 3}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %q\n", token.ID, token.Finish)
	}
	// Output:
	// 410 ""
	// 405 ""
	// 455 "length"
}

// Log-probabilities are those of the model, before any sampling step.
func ExampleGenerateOptions_logprobs() {
	model, session := openSmall()
	defer model.Close()
	options := llama.GenerateOptions{MaxTokens: 1, TopLogprobs: 3}
	for token, err := range session.Generate(context.Background(), "The file sees the king", options) {
		if err != nil {
			log.Fatal(err)
		}
		for _, alt := range token.Top {
			fmt.Printf("%q %.1f\n", model.Tokenizer().TokenBytes(alt.ID), alt.Logprob)
		}
	}
	// Output:
	// "!" -0.7
	// "<|reserved_special_token_140|>" -1.1
	// "]])" -3.3
}

// A sampling step is a function of the candidates: this one never takes a
// token twice.
func ExampleGenerateOptions_steps() {
	model, session := openSmall()
	defer model.Close()
	used := map[int32]bool{}
	fresh := sample.StepFunc(func(c *sample.Candidates) {
		for i, id := range c.IDs {
			if used[id] {
				c.Logits[i] = float32(math.Inf(-1))
			}
		}
	})
	options := llama.GenerateOptions{MaxTokens: 6, Steps: []sample.Step{fresh}}
	for token, err := range session.Generate(context.Background(), "The file sees the king", options) {
		if err != nil {
			log.Fatal(err)
		}
		used[token.ID] = true
		fmt.Print(token.Text)
	}
	// Output: ! argumentlyel
}

// A mask bans tokens: only digits are left.
func ExampleGenerateOptions_mask() {
	model, session := openSmall()
	defer model.Close()
	digits := sample.NewBitset(model.Config().Vocab)
	for id := range int32(model.Config().Vocab) {
		text := string(model.Tokenizer().TokenBytes(id))
		if text != "" && strings.Trim(text, "0123456789") == "" {
			digits.Add(id)
		}
	}
	options := llama.GenerateOptions{MaxTokens: 8, Steps: []sample.Step{digits}}
	for token, err := range session.Generate(context.Background(), "The file sees the king", options) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(token.Text)
	}
	// Output: 33330530
}

// Logits are of the token after the ids.
func ExampleSession_Logits() {
	model, session := openSmall()
	defer model.Close()
	ids := encode(model, "The file sees the king")
	logits, err := session.Logits(context.Background(), ids)
	if err != nil {
		log.Fatal(err)
	}
	best := slices.Index(logits, slices.Max(logits))
	fmt.Printf("%d logits, best %q\n", len(logits), model.Tokenizer().TokenBytes(int32(best)))
	// Output: 768 logits, best "!"
}

// The log-probability of each token of a text, given those before it.
func ExampleSession_Score() {
	model, session := openSmall()
	defer model.Close()
	ids := encode(model, "the king")
	err := session.Score(context.Background(), ids, func(pos int, logits []float32) {
		if pos+1 < len(ids) {
			next := ids[pos+1]
			fmt.Printf("%q %.1f\n", model.Tokenizer().TokenBytes(next), sample.Logprob(logits, next))
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// "t" -12.3
	// "he" -11.7
	// " " -22.6
	// "k" -19.9
	// "ing" -17.3
}

func ExampleModel_Perplexity() {
	model, _ := openSmall()
	defer model.Close()
	ids := encode(model, strings.Repeat("The file sees the king. ", 20))
	p, err := model.Perplexity(context.Background(), ids, llama.PerplexityOptions{Context: 64})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Tokens, "tokens of", p.Chunks, "chunks,", p.PPL == math.Exp(p.NLL))
	// Output: 93 tokens of 3 chunks, true
}

// Embeddings have length 1, so their product is the cosine of the angle.
func ExampleSession_Embed() {
	model, session := openSmall()
	defer model.Close()
	a, err := session.Embed(context.Background(), "the king", llama.EmbedOptions{})
	if err != nil {
		log.Fatal(err)
	}
	b, err := session.Embed(context.Background(), "the queen", llama.EmbedOptions{})
	if err != nil {
		log.Fatal(err)
	}
	dot := func(x, y []float32) (sum float32) {
		for i := range x {
			sum += x[i] * y[i]
		}
		return sum
	}
	fmt.Printf("%d numbers: %.2f %.2f\n", len(a), dot(a, a), dot(a, b))
	// Output: 96 numbers: 1.00 0.72
}

// Two continuations of one prompt, which is computed once.
func ExampleSession_Fork() {
	model, session := openSmall()
	defer model.Close()
	prompt := encode(model, "The file sees the king")
	if _, err := session.Logits(context.Background(), prompt); err != nil {
		log.Fatal(err)
	}
	for _, end := range []string{" and", " or"} {
		fork, err := session.Fork()
		if err != nil {
			log.Fatal(err)
		}
		more := encode(model, "The file sees the king"+end)
		if _, err := fork.Logits(context.Background(), more); err != nil {
			log.Fatal(err)
		}
		u := fork.Usage()
		fmt.Println("held:", u.ReusedTokens, "computed:", u.PrefillTokens)
		fork.Close()
	}
	// Output:
	// held: 13 computed: 1
	// held: 13 computed: 1
}

// A session forgets the end of what it holds, and gives its memory back.
func ExampleSession_Truncate() {
	model, session := openSmall()
	defer model.Close()
	if _, err := session.Logits(context.Background(), []int32{1, 2, 3, 4, 5}); err != nil {
		log.Fatal(err)
	}
	if err := session.Truncate(3); err != nil {
		log.Fatal(err)
	}
	fmt.Println(session.Len(), session.IDs())
	// Output: 3 [1 2 3]
}

// A prompt longer than the session is refused before anything is computed.
func ExampleSession_Context() {
	model, _ := openSmall()
	defer model.Close()
	session, err := model.NewSession(llama.SessionOptions{Context: 4})
	if err != nil {
		log.Fatal(err)
	}
	_, err = session.Logits(context.Background(), []int32{1, 2, 3, 4, 5})
	fmt.Println(session.Context(), errors.Is(err, llama.ErrContextFull))
	// Output: 4 true
}
