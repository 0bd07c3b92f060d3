# Measures Hugging Face tokenizers for the harness in bench: the tokenizer.json argv[1], the
# text argv[2]. It answers requests, a JSON object a line: {"parts": [[from, to], ...]}
# encodes these bytes of the text on one thread -> {"rate": bytes/s, "tokens"}.
import json, os, sys, time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import tokenizers
except ImportError:
    print(json.dumps({"missing": "tokenizers"}), flush=True)
    sys.exit()

tok = tokenizers.Tokenizer.from_file(sys.argv[1])
with open(sys.argv[2], "rb") as f:
    text = f.read()
print(json.dumps({"name": "tokenizers " + tokenizers.__version__}), flush=True)
for line in sys.stdin:
    parts = json.loads(line)["parts"]
    texts = [text[a:b].decode() for a, b in parts]
    tokens, begin = 0, time.perf_counter()
    for t in texts:
        tokens += len(tok.encode_batch_fast([t], add_special_tokens=False)[0].ids)  # without offsets
    seconds = time.perf_counter() - begin
    print(json.dumps({"rate": sum(b - a for a, b in parts) / seconds, "tokens": tokens}), flush=True)
