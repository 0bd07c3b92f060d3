// Package checkpoint reads and writes the files of Llama models. It knows their
// formats, names and configurations, turns one format into another, and merges
// adapters. It does not know the network: package llama binds what is read here to
// layers.
//
// A Checkpoint is an opened model: a Config, a Tensor for each Parameter, and the
// tokenizer, the chat template and the sampling settings, as far as the files have
// them. A Tensor is read row by row; nothing here keeps weights in memory. Opening
// checks what headers say before it takes memory for it. That a tensor exists and
// has the shape of its Parameter is checked by Checkpoint.Find, so that files with
// a hole in them can still be described.
//
// To add a format: a file that opens it (openFS chooses) and enters its tensors by
// Checkpoint.add, a column in names.go, and, to write it, a file beside it whose
// name ends in _write.go.
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
// The fields of Config in config.json, in GGUF (after "llama.", or "granite." where there
// is one of the four factors) and in params.json; a dash is a value that follows from
// others or from the tensors:
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
//	SlidingWindow        sliding_window           attention.sliding_window          -
//	EmbeddingScale       embedding_multiplier     embedding_scale                   -
//	ResidualScale        residual_multiplier      residual_scale                    -
//	AttentionScale       attention_multiplier     attention.scale                   -
//	LogitsScale          logits_scaling           logit_scale                       -
//	TiedEmbeddings       tie_word_embeddings      -                                 -
//	AttentionBias        attention_bias           -                                 -
//	AttentionOutputBias  attention_bias           -                                 -
//	MLPBias              mlp_bias                 -                                 -
//
// GGUF files hold the outcome of llama3 scaling in the tensor rope_freqs.weight
// in place of its settings, and the factors of longrope in rope_factors_short.weight and
// rope_factors_long.weight. Newer config.json files have rope_theta and the
// scaling inside rope_parameters.
package checkpoint
