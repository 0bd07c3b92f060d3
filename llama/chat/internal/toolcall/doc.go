// Package toolcall finds the tool calls in what a model writes, as it writes.
//
// These ways of writing calls are known:
//
//	{"name": "f", "parameters": {…}}      Llama 3.1; several between ; or in an array
//	[f(a=1, b="x"), g()]                  Llama 3.2, values as in Python
//	<|python_tag|>…                       Llama 3.1: one of the above, f.call(a="x"), or code
//	<function=f>{…}</function>            Llama 3.1
//	<tool_call>{…}</tool_call>            Hermes, Qwen
//	[TOOL_CALLS][{…}], [TOOL_CALLS]f[ARGS]{…}  Mistral
//
// A call is never guessed: what is not written well is reported, and stays
// text. Source: https://github.com/meta-llama/llama-models, prompt_format.md of
// models/llama3_1 and llama3_2.
package toolcall
