# Measures tiktoken for the harness in bench: the vocabulary argv[1] with Llama 3's split
# expression, the text argv[2]. It answers requests, a JSON object a line: {"parts": [[from,
# to], ...]} encodes these bytes of the text -> {"rate": bytes/s, "tokens"}.
import json, sys, time

try:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
except ImportError:
    print(json.dumps({"missing": "tiktoken"}), flush=True)
    sys.exit()

pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
tok = tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=load_tiktoken_bpe(sys.argv[1]), special_tokens={})
with open(sys.argv[2], "rb") as f:
    text = f.read()
print(json.dumps({"name": "tiktoken " + tiktoken.__version__}), flush=True)
for line in sys.stdin:
    parts = json.loads(line)["parts"]
    texts = [text[a:b].decode() for a, b in parts]
    tokens, begin = 0, time.perf_counter()
    for t in texts:
        tokens += len(tok.encode_ordinary(t))
    seconds = time.perf_counter() - begin
    print(json.dumps({"rate": sum(b - a for a, b in parts) / seconds, "tokens": tokens}), flush=True)
