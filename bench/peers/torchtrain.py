# Measures training with PyTorch for the harness in bench, with argv[1] threads; argv[2] is
# "PyTorch" (eager), "torch.compile" or "PEFT". It answers requests, a JSON object a line:
# {"what": "open", "folder", "adapter", "rows", "length", "ids", "precision": "float32"|"bf16",
# "lr", "betas", "eps", "decay", "clip"} loads a model, and an adapter where one is named;
# {"what": "step", "n"} trains n times on the ids -> {"rate": tokens/s, "loss"} of the last;
# {"what": "peak"} -> {"peak": the most bytes that were resident}.
import json, os, sys, time, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
try:
    import torch, transformers
    if sys.argv[2] == "PEFT":
        import peft
except ImportError as e:
    print(json.dumps({"missing": e.name}), flush=True)
    sys.exit()

threads, kind = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(threads)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class Training:
    def __init__(self, r):
        # Autocast rounds for the products; the weights stay float32, as its users keep them.
        m = transformers.LlamaForCausalLM.from_pretrained(r["folder"], dtype=torch.float32, attn_implementation="sdpa")
        if kind == "PEFT":
            m = peft.PeftModel.from_pretrained(m, r["adapter"], is_trainable=True)
        m.train()
        named = [(n, p) for n, p in m.named_parameters() if p.requires_grad]
        decayed = {n for n, p in named if p.dim() == 2 and "embed_tokens" not in n}
        groups = [{"params": [p for n, p in named if n in decayed]},
                  {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=r["lr"], betas=r["betas"],
                                           eps=r["eps"], weight_decay=r["decay"], fused=True)
        self.trained, self.clip, self.mixed = [p for _, p in named], r["clip"], r["precision"] == "bf16"
        self.model = torch.compile(m) if kind == "torch.compile" else m
        self.ids = torch.tensor(r["ids"]).view(r["rows"], r["length"])

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mixed):
            loss = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        return loss.item()

    def steps(self, n):
        begin = time.perf_counter()
        for _ in range(n):
            loss = self.step()
        return {"rate": n * self.ids.numel() / (time.perf_counter() - begin), "loss": loss}


def peak():
    """VmHWM: ru_maxrss counts what the process held that started this one."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    sys.exit("the system does not tell VmHWM")


name = "PyTorch" if kind == "PEFT" else kind
name += " " + torch.__version__
if kind == "PEFT":
    name = "PEFT " + peft.__version__ + ", " + name
print(json.dumps({"name": name}), flush=True)
for line in sys.stdin:
    r, a = json.loads(line), {}
    if r["what"] == "open":
        training = Training(r)
    elif r["what"] == "step":
        a = training.steps(r["n"])
    else:
        a = {"peak": peak()}
    print(json.dumps(a), flush=True)
