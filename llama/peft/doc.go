// Package peft reads and writes the low-rank adapters of Hugging Face's PEFT
// (https://github.com/huggingface/peft): a folder of adapter_config.json and
// adapter_model.safetensors. There are LoRA, rsLoRA and DoRA on linear layers, LoRA on
// the embedding, and parameters of the model that come with an adapter. The package knows
// names, shapes and numbers, and no model.
//
// A setting that changes the mathematics in a way that is not built is an error that
// names its key. So is an unknown key, unless its value is empty. Settings that only
// concern training are kept as they are.
//
// # Hostile files
//
// The settings are at most 1 MB. Patterns in them are matched in linear time, or given up
// after a second for all names. Tensors are checked against the ranks of the settings
// before anything is read. Memory is taken for what the file really holds.
package peft
