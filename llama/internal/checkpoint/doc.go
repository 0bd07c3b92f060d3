// Package checkpoint reads and writes the files of Llama models.
package checkpoint
