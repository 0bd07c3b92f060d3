// Package jinja runs the Jinja programs that chat templates are, as Hugging
// Face's transformers run them: jinja2's immutable sandbox with trim_blocks,
// lstrip_blocks, loop controls and no escaping of HTML, with the functions
// raise_exception and strftime_now, and a tojson that writes what Python's
// json.dumps does. Sources: https://jinja.palletsprojects.com/en/stable/templates,
// https://huggingface.co/docs/transformers/chat_templating.
//
// A template sees the variables it is given and a closed set of functions. It
// cannot load files, and nothing of Go's can be reached. Limits bound its
// source, nesting, steps, and the bytes it makes.
//
// Every string knows which of its bytes came from outside ([Data], [FromJSON]):
// [Text.Data] tells which parts of the output the template did not write
// itself.
package jinja
