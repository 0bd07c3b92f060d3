// Package corpus reads documents of text from files: plain text, JSON, JSON lines and
// parquet, each also under gzip or zstd. A parquet file that is packed as a whole is
// unpacked to a temporary file, as it is read from its end.
//
// A file is read from front to back with memory for one document (parquet: one
// page of one column), whose size has a limit that is checked before memory is
// taken. Every document has a place from which it can be read again, so that a
// run that stopped goes on where it was.
//
// Errors are of type *Error and name the file and the line or row. What a file
// holds beside the one field of text is not looked at; rows of chats are refused
// by name. It knows nothing of tokens.
package corpus
