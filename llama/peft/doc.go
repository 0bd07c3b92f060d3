// Package peft reads and writes the low-rank adapters of Hugging Face's PEFT
// (https://github.com/huggingface/peft): a folder of adapter_config.json and
// adapter_model.safetensors, of LoRA, rsLoRA and DoRA on linear layers and LoRA on
// the embedding, and of the parameters of the model's that come with them. It knows
// names, shapes and numbers, and no model.
//
// A setting that changes the mathematics in a way that is not built here is an
// error that names its key, and so is a key that is not known and says
// anything; settings that only concern training are kept as they are.
//
// # Hostile files
//
// The settings are at most 1 MB, patterns in them are matched in linear time,
// or given up after a second for all names, and tensors are checked against the ranks of the settings before anything is
// read. Memory is taken for what the file really holds.
package peft
