# Measures PyTorch for the harness in bench, with argv[1] threads. It answers requests, a JSON
# object a line: {"type": "float32"|"bf16", "n", "seconds"} multiplies [n,n] by the transpose
# of [n,n], as a layer does, again and again for so long -> {"rate": TFLOP/s}.
import json, sys, time

try:
    import torch
except ImportError:
    print(json.dumps({"missing": "torch"}), flush=True)
    sys.exit()

torch.set_num_threads(int(sys.argv[1]))
types = {"float32": torch.float32, "bf16": torch.bfloat16}
made = {}
print(json.dumps({"name": "PyTorch " + torch.__version__}), flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        r = json.loads(line)
        key = n, kind = r["n"], r["type"]
        if key not in made:
            made[key] = [torch.randn(n, n).to(types[kind]) for _ in range(3)]
        x, w, y = made[key]
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < r["seconds"]:
            torch.mm(x, w.t(), out=y)
            count += 1
        rate = 2 * n**3 * count / (time.perf_counter() - begin) / 1e12
        print(json.dumps({"rate": rate}), flush=True)
