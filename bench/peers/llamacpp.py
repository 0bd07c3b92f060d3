# Measures llama.cpp for the harness in bench. It answers requests, a JSON object a line:
# {"what": "open", "path", "threads", "room"} loads a file;
# {"what": "prefill"|"decode", "n": tokens, "depth": tokens before} -> {"rate": tokens/s};
# {"what": "load", "path", "threads", "room", "ids", "n"} loads a file and generates n tokens
# after ids -> {"rate": 1/seconds}.
import ctypes, json, random, sys, time

try:
    import llama_cpp as ll
except ImportError:
    print(json.dumps({"missing": "llama_cpp"}), flush=True)
    sys.exit()

silent = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(silent, ctypes.c_void_p(0))


def open_model(r):
    global ctx, mem, model
    ll.llama_backend_init()
    mp = ll.llama_model_default_params()
    mp.n_gpu_layers = 0
    model = ll.llama_model_load_from_file(r["path"].encode(), mp)
    if not model:
        sys.exit("llama.cpp cannot load " + r["path"])
    cp = ll.llama_context_default_params()
    cp.n_ctx = r["room"]
    cp.n_batch, cp.n_ubatch = 2048, 512
    cp.n_threads = cp.n_threads_batch = r["threads"]
    ctx = ll.llama_init_from_model(model, cp)
    if not ctx:
        sys.exit("llama.cpp cannot make a context")
    mem = ll.llama_get_memory(ctx)


def batches(ids, step):
    """Makes the calls of llama_decode beforehand: they go on where the cache ends."""
    arrays = [(ll.llama_token * len(part))(*part) for part in (ids[i:i + step] for i in range(0, len(ids), step))]
    return [(a, ll.llama_batch_get_one(a, len(a))) for a in arrays]


def feed(calls):
    for _, b in calls:
        if ll.llama_decode(ctx, b) != 0:
            sys.exit("llama_decode failed")
        ll.llama_get_logits_ith(ctx, -1)


def start(r):
    """Loads for the measurements of tokens: the same ids each time, a warm-up."""
    global ids, held
    open_model(r)
    rng, vocab = random.Random(1), ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    ids = [rng.randrange(vocab) for _ in range(r["room"])]
    feed(batches(ids[:16], 2048))
    held = 16


def measure(r):
    """Cuts the cache back to the depth, or fills it so far, and measures."""
    global held
    depth, n = r["depth"], r["n"]
    if held > depth and not ll.llama_memory_seq_rm(mem, 0, depth, -1):
        sys.exit("llama_memory_seq_rm failed")
    feed(batches(ids[min(held, depth):depth], 2048))
    calls = batches(ids[depth:depth + n], 2048 if r["what"] == "prefill" else 1)
    ll.llama_synchronize(ctx)
    begin = time.perf_counter()
    feed(calls)
    ll.llama_synchronize(ctx)
    seconds, held = time.perf_counter() - begin, depth + n
    return n / seconds


def load(r):
    begin = time.perf_counter()
    open_model(r)
    feed(batches(r["ids"], 2048))
    greedy = ll.llama_sampler_init_greedy()
    for i in range(r["n"]):
        token = ll.llama_sampler_sample(greedy, ctx, -1)
        if i + 1 < r["n"]:
            feed(batches([token], 1))
    return 1 / (time.perf_counter() - begin)


print(json.dumps({"name": "llama.cpp (llama-cpp-python " + ll.__version__ + ")"}), flush=True)
for line in sys.stdin:
    r, rate = json.loads(line), 0
    if r["what"] == "open":
        start(r)
    elif r["what"] == "load":
        rate = load(r)
    else:
        rate = measure(r)
    print(json.dumps({"rate": rate}), flush=True)
