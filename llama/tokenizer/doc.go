// Package tokenizer turns text into token ids and back, exactly as the files
// of a Llama-family model say.
//
// It reads four kinds of vocabulary: tiktoken rank files (Meta's Llama 3
// tokenizer.model), SentencePiece models of the BPE type (Llama 2's
// tokenizer.model), Hugging Face tokenizer.json with a BPE model, and the
// vocabulary in GGUF metadata (`gpt2` and `llama`). What it cannot reproduce
// exactly it refuses by name: Unigram and WordPiece models, character maps,
// unknown split names.
//
// # How a text becomes ids
//
//  1. Added tokens are cut out of the text, the longest at each place.
//     Ordinary ones (user-defined) always; control tokens only with
//     EncodeOptions.Special, so text of a user can never forge a turn.
//  2. What is left is normalised and split into words. The usual split
//     expressions have hand-written scanners; others run as RE2, or as a
//     backtracking expression under a time limit.
//  3. Each word is merged by byte-pair encoding, lowest rank first, leftmost
//     first. Short words by scanning, long ones with a heap, so a megabyte of
//     one letter costs n log n.
//
// # Bytes that are not UTF-8
//
// They are kept: byte-level vocabularies decode back to the input, bit for
// bit. From the first invalid byte of a segment on, the rest of the segment and
// the word before it are one word (this is tiktoken's byte encoder).
// SentencePiece vocabularies use byte tokens.
//
// # Hostile files
//
// Sizes are checked before memory is taken, nesting is bounded, and every id is
// compared with the vocabulary. Errors are of type *Error and name the file and
// the field. A Tokenizer never changes after it was made and is safe for
// concurrent use.
package tokenizer
