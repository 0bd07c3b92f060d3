# Measures llama.cpp for the harness in bench. It answers requests, a JSON object a line:
# {"what": "open", "path", "threads", "room", "n": sequences} loads a file;
# {"what": "prefill"|"decode", "n": tokens, "depth": tokens before} -> {"rate": tokens/s};
# {"what": "streams", "n": tokens of each, "depth": tokens before, "streams"} -> {"rate": tokens/s};
# {"what": "arrivals", "streams": at once, "arrivals": [{"at": s, "prompt": tokens, "n": tokens}]}
# -> {"rate": tokens/s, "delay": s between two tokens of a request, 99th percentile};
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
    if r["what"] == "open" and r["n"] > 1:
        cp.n_seq_max, cp.kv_unified = r["n"], True
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


def decode(rows):
    """Decodes rows of (token, position, sequence, whether logits are wanted)."""
    b = ll.llama_batch_init(len(rows), 0, 1)
    b.n_tokens = len(rows)
    for i, (token, pos, seq, wanted) in enumerate(rows):
        b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, pos, 1, wanted
        b.seq_id[i][0] = seq
    if ll.llama_decode(ctx, b) != 0:
        sys.exit("llama_decode failed")
    ll.llama_batch_free(b)


def sample(row):
    global greedy
    if greedy is None:
        greedy = ll.llama_sampler_init_greedy()
    return ll.llama_sampler_sample(greedy, ctx, row)


def streams(r):
    """Each sequence computes the last position of its text again and feeds back what comes."""
    global filled
    depth, n, count = r["depth"], r["n"], r["streams"]
    if filled != (depth, count):
        ll.llama_memory_clear(mem, True)
        for seq in range(count):
            for i in range(0, depth - 1, 512):
                decode([(ids[(seq * depth + j) % len(ids)], j, seq, False) for j in range(i, min(i + 512, depth - 1))])
        filled = depth, count
    for seq in range(count):
        if not ll.llama_memory_seq_rm(mem, seq, depth - 1, -1):
            sys.exit("llama_memory_seq_rm failed")
    tokens = [ids[seq] for seq in range(count)]
    ll.llama_synchronize(ctx)
    begin = time.perf_counter()
    for i in range(n):
        decode([(tokens[seq], depth - 1 + i, seq, True) for seq in range(count)])
        tokens = [sample(seq) for seq in range(count)]
    return count * n / (time.perf_counter() - begin)


def arrivals(r):
    """Serves requests as llama.cpp's server does: each step has a token of every request
    that generates, and of the prompts as much as the batch has room for."""
    global filled
    filled = None
    ll.llama_memory_clear(mem, True)
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    rng, waiting, free, running, delays, total = random.Random(2), list(r["arrivals"]), list(range(r["streams"])), [], [], 0
    begin = time.perf_counter()
    while waiting or running:
        now = time.perf_counter() - begin
        while waiting and free and waiting[0]["at"] <= now:
            a = waiting.pop(0)
            running.append({"seq": free.pop(), "text": [rng.randrange(vocab) for _ in range(a["prompt"])], "fed": 0, "left": a["n"], "last": None})
        if not running:
            time.sleep(max(0, waiting[0]["at"] - now))
            continue
        rows, ends = [], []
        for q in sorted(running, key=lambda q: q["last"] is None):  # those that generate first
            part = q["text"][q["fed"]:q["fed"] + 2048 - len(rows)]
            if not part:
                continue
            done = q["fed"] + len(part) == len(q["text"])
            rows += [(t, q["fed"] + i, q["seq"], done and i == len(part) - 1) for i, t in enumerate(part)]
            q["fed"] += len(part)
            if done:
                ends.append((q, len(rows) - 1))
        decode(rows)
        for q, row in ends:
            q["text"].append(sample(row))
            now, total = time.perf_counter(), total + 1
            if q["last"] is not None:
                delays.append(now - q["last"])
            q["last"], q["left"] = now, q["left"] - 1
            if q["left"] == 0:
                ll.llama_memory_seq_rm(mem, q["seq"], -1, -1)
                running.remove(q)
                free.append(q["seq"])
    delays.sort()
    return total / (time.perf_counter() - begin), delays[min(len(delays) - 1, len(delays) * 99 // 100)] if delays else 0


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


greedy = filled = None
print(json.dumps({"name": "llama.cpp (llama-cpp-python " + ll.__version__ + ")"}), flush=True)
for line in sys.stdin:
    r, rate, delay = json.loads(line), 0, 0
    if r["what"] == "open":
        start(r)
    elif r["what"] == "load":
        rate = load(r)
    elif r["what"] == "streams":
        rate = streams(r)
    elif r["what"] == "arrivals":
        rate, delay = arrivals(r)
    else:
        rate = measure(r)
    print(json.dumps({"rate": rate, "delay": delay}), flush=True)
