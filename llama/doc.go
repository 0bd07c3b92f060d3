// Package llama runs models of the Llama family: open a model's files, make
// sessions, generate text, score, embed, convert.
//
//	model, err := llama.Open(ctx, "model.gguf", llama.Options{})
//	if err != nil {
//		return err
//	}
//	defer model.Close()
//	session, err := model.NewSession(llama.SessionOptions{})
//	if err != nil {
//		return err
//	}
//	for token, err := range session.Generate(ctx, "Once upon a time", llama.GenerateOptions{MaxTokens: 100}) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(token.Text)
//	}
//
// # Model and Session
//
// A Model is weights and a vocabulary. A Session is a cache, not a transcript:
// it holds the keys and values of one sequence, and every call takes the whole
// prompt. The longest prefix of ids that the session already holds is not
// computed again, so the next turn of a conversation costs only what is new.
// Usage counts both. Fork makes a second session that shares what is held,
// Truncate forgets its end. Save writes what is held to a file, from which Load goes on in
// another process.
//
// # Concurrency
//
// A Model is safe for concurrent use, and any number of sessions may run at once. The rows
// of their calls go through the network in one step, which takes less time than a step for
// each. Every call gets the bits that it gets alone. A long prompt is computed in parts, so
// that it does not stall calls that generate (Options.MixedRows). SessionOptions.Priority
// orders the calls. A context that ends is the error of its own call alone. A Session serves
// one call at a time and answers a second with ErrBusy. A generation belongs to its
// range loop: breaking out ends it, and so does its context, in the middle of a
// prompt too; what was computed until then stays in the session. Close cancels
// what runs, waits for it and frees the memory.
//
// # Speculation
//
// GenerateOptions.Speculation guesses tokens ahead, from the text so far or with a smaller
// model, and computes them in one step. What is generated does not change, only the number
// of steps.
//
// # Memory
//
// Weights are read from the files once, into memory outside the Go heap; the
// files are closed when Open returns. Keys and values are taken in pages of 64
// positions as a session fills, and given back by Truncate and Close. All
// sessions share one scratch area. Estimate gives the three sizes before
// anything is loaded. Options.MemoryLimit refuses what never fits, and has calls wait
// that do not fit beside those that run.
//
// # Files
//
// Open reads three formats and tells them apart itself:
//
//	GGUF          one .gguf file, or the first of name-00001-of-0000N.gguf
//	Hugging Face  a folder with config.json and .safetensors, whole or sharded
//	Meta          a folder with params.json and consolidated.NN.pth, merged
//
// Files may come from strangers: sizes are checked before memory is taken, and
// what is wrong is an error that names file, tensor and what was expected.
// Convert writes each of the formats.
//
// Options.Adapters puts low-rank adapters on the matrices of a model, whatever
// it was opened from, and ConvertOptions.Adapters merges them. A session has all
// of them, or those that SessionOptions.Adapters names, whatever the sessions have
// that run beside it.
//
// # Training
//
// New makes a model with random weights, Options.Trainable opens one whose weights may
// change, and Model.AddAdapter puts a small adapter on one whose weights stay. Training is
// the handle of those who train: package train has the loop. Sessions run beside it. They
// multiply with packed copies of the weights, made again after a change, so that sampling
// is as fast as from a model that was saved and opened again; and where both have one
// precision, their log-probabilities are those of training, bit for bit.
//
// # Precision
//
// Weights are never rounded: they are multiplied as the file holds them.
// Under PrecisionAuto activations may be rounded to the type that suits the
// weights where the processor gains by it: to BF16 for BF16 weights, to 8 bits for
// quantised ones. The output layer gets 16 bits in the place of 8, and so do the
// keys of small models, since there a rounding can change which token is the most
// likely. PrecisionF32 rounds nothing. Results do not depend on the number of workers, on how a prompt was cut into
// steps, or on what the cache held.
//
// # Names
//
// A Config and the tensors of a model have different names in each of the three
// formats, and two of them order the rows of q and k differently. Inside, names and
// order are those of Hugging Face. The tables are in the documentation of
// llama/internal/checkpoint, the package that reads and writes the files.
package llama
