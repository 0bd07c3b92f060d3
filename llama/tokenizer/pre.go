package tokenizer

// preSplit is what a value of tokenizer.ggml.pre stands for.
type preSplit struct {
	patterns []string // applied one after the other; matches and gaps are words
	whole    bool     // a word that is a token is not merged
	bos      bool     // BOS is added unless the file says otherwise
}

// splitByPre returns the split of a name, nil for an unknown one. The names and
// expressions are llama.cpp's (src/llama-vocab.cpp); where it had to bend an
// expression for std::regex, the original from the model's tokenizer.json
// stands here.
func splitByPre(pre string) *preSplit {
	const (
		gpt2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
		llama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		qwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		o200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		tekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		bloom  = ` ?[^(\s|.,!?…。，、।۔،)]+`
		han    = `[一-龥ࠀ-一가-퟿]+`
	)
	switch pre {
	case "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2":
		return &preSplit{[]string{llama3}, true, true}
	case "dbrx", "smaug-bpe", "chatglm-bpe", "glm4":
		return &preSplit{patterns: []string{llama3}}
	case "qwen2", "stablelm2", "megrez", "deepseek-r1-qwen", "hunyuan":
		return &preSplit{patterns: []string{qwen2}}
	case "gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "gigachat", "roberta-bpe", "trillion":
		return &preSplit{patterns: []string{gpt2}}
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b":
		return &preSplit{patterns: []string{`\p{N}`, gpt2}}
	case "falcon":
		return &preSplit{patterns: []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", gpt2, `[0-9][0-9][0-9]`}}
	case "default":
		return &preSplit{patterns: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2, `\p{N}+`, `[0-9][0-9][0-9]`}}
	case "deepseek-llm":
		return &preSplit{patterns: []string{`[\r\n]`, `\s?` + deepseekLetters, `\s?[!-/:-~！-／：-～‘-‟　-。]+`, `\s+$`, han, `\p{N}+`}}
	case "deepseek-coder":
		return &preSplit{patterns: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, han, `\p{N}`}}
	case "deepseek-v3", "hunyuan-dense":
		return &preSplit{patterns: []string{`\p{N}{1,3}`, `[一-龥぀-ゟ゠-ヿ]+`,
			"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}
	case "tekken":
		return &preSplit{[]string{tekken}, true, true}
	case "gpt-4o", "llama4":
		return &preSplit{patterns: []string{o200k}}
	case "poro-chat", "bloom", "gpt3-finnish":
		return &preSplit{patterns: []string{bloom}}
	case "viking":
		return &preSplit{patterns: []string{bloom, `\p{N}`}}
	}
	return nil
}

// deepseekLetters is the class of cased letters in DeepSeek LLM's tokenizer.json.
const deepseekLetters = `[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+`
