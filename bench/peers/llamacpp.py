# Measures llama.cpp for the harness in bench: loads the GGUF file of argv[1] with
# argv[2] threads, prints {"ok": true}, then answers requests, a JSON object a line:
# {"what": "prefill"|"decode", "n": tokens, "depth": tokens before} -> {"rate": tokens/s}.
import ctypes, json, random, sys, time

import llama_cpp as ll

threads = int(sys.argv[2])
silent = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(silent, ctypes.c_void_p(0))
ll.llama_backend_init()
mp = ll.llama_model_default_params()
mp.n_gpu_layers = 0
model = ll.llama_model_load_from_file(sys.argv[1].encode(), mp)
if not model:
    sys.exit("llama.cpp cannot load " + sys.argv[1])
cp = ll.llama_context_default_params()
cp.n_ctx = int(sys.argv[3])
cp.n_batch, cp.n_ubatch = 2048, 512
cp.n_threads = cp.n_threads_batch = threads
ctx = ll.llama_init_from_model(model, cp)
mem = ll.llama_get_memory(ctx)
vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
rng = random.Random(1)


def feed(start, n):
    """Runs n random tokens from a position on, logits of the last one only."""
    while n > 0:
        m = min(n, 2048)
        b = ll.llama_batch_init(m, 0, 1)
        b.n_tokens = m
        for i in range(m):
            b.token[i], b.pos[i], b.n_seq_id[i] = rng.randrange(vocab), start + i, 1
            b.seq_id[i][0], b.logits[i] = 0, i == m - 1
        if ll.llama_decode(ctx, b) != 0:
            sys.exit("llama_decode failed")
        ll.llama_batch_free(b)
        start, n = start + m, n - m
    ll.llama_get_logits_ith(ctx, -1)


feed(0, 16)
print(json.dumps({"ok": True}), flush=True)
for line in sys.stdin:
    r = json.loads(line)
    ll.llama_memory_clear(mem, True)
    feed(0, r["depth"])
    ll.llama_synchronize(ctx)
    start = time.perf_counter()
    if r["what"] == "prefill":
        feed(r["depth"], r["n"])
    else:
        for i in range(r["n"]):
            feed(r["depth"] + i, 1)
    ll.llama_synchronize(ctx)
    print(json.dumps({"rate": r["n"] / (time.perf_counter() - start)}), flush=True)
