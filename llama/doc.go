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
// Truncate forgets its end.
//
// # Concurrency
//
// A Model is safe for concurrent use, and any number of sessions may run at
// once: their steps take turns, first come first served. A Session serves one
// call at a time and answers a second with ErrBusy. A generation belongs to its
// range loop: breaking out ends it, and so does its context, in the middle of a
// prompt too; what was computed until then stays in the session. Close cancels
// what runs, waits for it and frees the memory.
//
// # Memory
//
// Weights are read from the files once, into memory outside the Go heap; the
// files are closed when Open returns. Keys and values are taken in pages of 64
// positions as a session fills, and given back by Truncate and Close. All
// sessions share one scratch area. Estimate gives the three sizes before
// anything is loaded, and Options.MemoryLimit refuses what does not fit.
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
// it was opened from, and ConvertOptions.Adapters merges them.
//
// # Precision
//
// Weights are never rounded: they are multiplied as the file holds them.
// Under PrecisionAuto activations may be rounded to the type that suits the
// weights, 8 bits for quantised ones, where the processor gains by it;
// PrecisionF32 keeps them. The inputs of the output layer are never rounded.
// Results do not depend on the number of workers, on how a prompt was cut into
// steps, or on what the cache held.
//
// # Names
//
// Inside, tensors have Hugging Face names and row order. The other formats
// differ in both: they hold row 2i+j of each q and k head where Hugging Face
// has row i + j*HeadDim/2. Reading and writing translate. N is the layer's
// number; weights end in .weight, biases, which Meta's format lacks, in .bias.
//
//	Hugging Face                             GGUF               Meta
//	model.embed_tokens                       token_embd         tok_embeddings
//	model.layers.N.input_layernorm           blk.N.attn_norm    layers.N.attention_norm
//	model.layers.N.self_attn.q_proj          blk.N.attn_q       layers.N.attention.wq
//	model.layers.N.self_attn.k_proj          blk.N.attn_k       layers.N.attention.wk
//	model.layers.N.self_attn.v_proj          blk.N.attn_v       layers.N.attention.wv
//	model.layers.N.self_attn.o_proj          blk.N.attn_output  layers.N.attention.wo
//	model.layers.N.post_attention_layernorm  blk.N.ffn_norm     layers.N.ffn_norm
//	model.layers.N.mlp.gate_proj             blk.N.ffn_gate     layers.N.feed_forward.w1
//	model.layers.N.mlp.up_proj               blk.N.ffn_up       layers.N.feed_forward.w3
//	model.layers.N.mlp.down_proj             blk.N.ffn_down     layers.N.feed_forward.w2
//	model.norm                               output_norm        norm
//	lm_head                                  output             output
//
// The fields of Config in config.json, in GGUF (after "llama.") and in
// params.json; a dash is a value that follows from others or from the tensors:
//
//	Config               Hugging Face             GGUF                              Meta
//	Layers               num_hidden_layers        block_count                       n_layers
//	Dim                  hidden_size              embedding_length                  dim
//	Heads                num_attention_heads      attention.head_count              n_heads
//	KVHeads              num_key_value_heads      attention.head_count_kv           n_kv_heads
//	HeadDim              head_dim                 attention.key_length              head_dim
//	HiddenDim            intermediate_size        feed_forward_length               multiple_of, ffn_dim_multiplier
//	Vocab                vocab_size               vocab_size                        vocab_size
//	Context              max_position_embeddings  context_length                    max_seq_len
//	NormEps              rms_norm_eps             attention.layer_norm_rms_epsilon  norm_eps
//	RopeTheta            rope_theta               rope.freq_base                    rope_theta
//	RopeScaling          rope_scaling             rope.scaling, rope_freqs.weight   use_scaled_rope
//	TiedEmbeddings       tie_word_embeddings      -                                 -
//	AttentionBias        attention_bias           -                                 -
//	AttentionOutputBias  attention_bias           -                                 -
//	MLPBias              mlp_bias                 -                                 -
//
// GGUF files hold the outcome of llama3 scaling in the tensor rope_freqs.weight
// in place of its settings. Newer config.json files have rope_theta and the
// scaling inside rope_parameters.
package llama
