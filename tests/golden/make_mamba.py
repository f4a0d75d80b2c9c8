"""Writes data/mamba_<k>.safetensors, data/tiny_hf, data/tiny_ssm and data/peft_lora. See README.md."""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import MambaForCausalLM

from common import DATA, build, config_text, cross_entropy, exact, mamba_config, relative, save

CASES = [
    dict(
        length=67,
        hidden_size=12,
        state_size=5,
        conv_kernel=4,
        time_step_rank=3,
        vocab_size=47,
        num_hidden_layers=2,
        residual_in_fp32=True,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=True,
        layer_norm_epsilon=1e-5,
    ),
    dict(
        length=3,
        hidden_size=20,
        state_size=16,
        conv_kernel=4,
        time_step_rank=1,
        vocab_size=61,
        num_hidden_layers=2,
        residual_in_fp32=False,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-5,
    ),
    dict(
        length=1,
        hidden_size=7,
        state_size=3,
        conv_kernel=2,
        time_step_rank=5,
        vocab_size=29,
        num_hidden_layers=3,
        residual_in_fp32=True,
        use_bias=True,
        use_conv_bias=False,
        tie_word_embeddings=True,
        layer_norm_epsilon=1e-6,
    ),
    dict(
        length=200,
        hidden_size=10,
        state_size=1,
        conv_kernel=3,
        time_step_rank=7,
        vocab_size=53,
        num_hidden_layers=2,
        residual_in_fp32=False,
        use_bias=True,
        use_conv_bias=True,
        tie_word_embeddings=True,
        layer_norm_epsilon=1e-3,
    ),
    dict(
        length=200,
        hidden_size=17,
        state_size=16,
        conv_kernel=4,
        time_step_rank=2,
        vocab_size=37,
        num_hidden_layers=1,
        residual_in_fp32=True,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=True,
        layer_norm_epsilon=1e-5,
    ),
    dict(
        length=67,
        hidden_size=9,
        state_size=7,
        conv_kernel=4,
        time_step_rank=1,
        vocab_size=31,
        num_hidden_layers=3,
        residual_in_fp32=False,
        use_bias=False,
        use_conv_bias=False,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-5,
        expand=3,
    ),
]
BATCH = 3
TAIL = 3


def forward_backward(model, ids, labels):
    model.zero_grad()
    logits = model(ids, use_cache=False).logits
    loss = cross_entropy(logits, labels)
    loss.backward()
    return logits.detach(), loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def write_case(k, spec):
    spec = dict(spec)
    length = spec.pop("length")
    config = mamba_config(**spec)
    model = build(config, seed=100 + k)
    gen = torch.Generator().manual_seed(900 + k)
    ids = torch.randint(0, config.vocab_size, (BATCH, length), generator=gen)
    labels = torch.randint(0, config.vocab_size, (BATCH, length), generator=gen)
    ignored = torch.rand(labels.shape, generator=gen) < 0.3
    ignored[0, -1] = False
    ignored[1, 0] = True
    labels[ignored] = -100

    tensors = {f"param/{n}": p.detach().clone() for n, p in model.named_parameters()}
    single = forward_backward(model, ids, labels)
    model.double()
    with exact():
        logits, loss, grads = forward_backward(model, ids, labels)
    assert logits.dtype is torch.float64 and all(g.dtype is torch.float64 for g in grads.values())
    worst = max((relative(single[2][n], g), n) for n, g in grads.items())
    print(
        f"mamba_{k}: L {length}, loss {loss.item():.6f}; float32 PyTorch deviates by logits "
        f"{relative(single[0], logits):.1e}, loss {abs(single[1].item() - loss.item()):.1e}, grad {worst[0]:.1e} {worst[1]}"
    )
    tensors |= {"input_ids": ids, "labels": labels, "loss": loss.reshape(1)}
    if length >= 200:
        tensors["logits_tail"] = logits[:, -TAIL:]
    else:
        tensors["logits"] = logits
    tensors |= {f"grad/{n}": g for n, g in grads.items()}
    save(DATA / f"mamba_{k}.safetensors", tensors, config=config_text(config), keep64=["loss"])


PROMPTS = (1, 2, 3, 5, 9)
NEW = 12
BEAMS = 3


def generate(model, prompt, beams):
    """Without the cache: transformers does not reorder Mamba's cache between beams."""
    out = model.generate(
        prompt[None],
        max_new_tokens=NEW,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
        attention_mask=torch.ones_like(prompt[None]),
    )
    scores = out.sequences_scores if beams > 1 else None
    rows = [row[len(prompt) :].tolist() for row in out.sequences]
    rows = [r[: r.index(0) + 1] if 0 in r else r for r in rows]  # the end mark itself is kept
    return rows, scores


def beam_search(model, prompt, beams):
    """The rule in plain words, to hold the documentation against transformers: at each step the 2*beams best
    continuations in order; one that ends is kept if it ranks among the first `beams`, with score = sum of log
    probabilities / number of new tokens (the end mark counted); the first `beams` others go on. Stop when `beams`
    hypotheses are kept and the worst is at least as good as the best running one would be at the present length.
    """
    live, done = [(0.0, [])], []

    def keep(total, tokens):
        done.append((total / len(tokens), tokens))
        done.sort(key=lambda d: -d[0])
        del done[beams:]

    for _ in range(NEW):
        candidates = []
        for total, tokens in live:
            logits = model(
                torch.cat([prompt, torch.tensor(tokens, dtype=torch.long)])[None], use_cache=False
            ).logits
            logp = torch.log_softmax(logits[0, -1], -1)
            candidates += [(total + logp[v].item(), tokens + [v]) for v in range(len(logp))]
        candidates.sort(key=lambda c: -c[0])
        live = []
        for rank, (total, tokens) in enumerate(candidates[: 2 * beams]):
            if tokens[-1] == 0:
                if rank < beams:
                    keep(total, tokens)
            elif len(live) < beams:
                live.append((total, tokens))
        if len(done) == beams and done[-1][0] >= candidates[0][0] / len(live[0][1]):
            return done
    for total, tokens in live:
        keep(total, tokens)
    return done


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([r + [-1] * (width - len(r)) for r in rows])


def tiny_config():
    return mamba_config(
        hidden_size=20,
        state_size=6,
        conv_kernel=3,
        time_step_rank=2,
        vocab_size=40,
        num_hidden_layers=2,
        residual_in_fp32=True,
        use_bias=False,
        use_conv_bias=True,
        tie_word_embeddings=True,
    )


def generation_tensors(model, seed):
    """None where the outcome hangs on rounding."""
    gen = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(1, 40, (n,), generator=gen) for n in PROMPTS]
    noisy = MambaForCausalLM(model.config).eval()
    noisy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in noisy.parameters():
            p.mul_(1 + 2e-5 * torch.randn(p.shape, generator=gen))
    exact_model = MambaForCausalLM(model.config).eval()
    exact_model.load_state_dict(model.state_dict())
    exact_model.double()
    out = {}
    for prompt in prompts:
        with torch.no_grad(), exact():
            greedy, _ = generate(exact_model, prompt, 1)
            beams, scores = generate(exact_model, prompt, BEAMS)
            mine = beam_search(exact_model, prompt, BEAMS)
        with torch.no_grad():
            same = (
                generate(noisy, prompt, 1)[0] == greedy
                and generate(noisy, prompt, BEAMS)[0] == beams
            )
        if not same:
            return None
        assert [m[1] for m in mine] == beams, (mine, beams)
        assert max(abs(m[0] - s.item()) for m, s in zip(mine, scores)) < 1e-6
        n = len(prompt)
        out |= {
            f"prompt_{n}": prompt,
            f"greedy_{n}": torch.tensor(greedy[0]),
            f"beams_{n}": padded(beams),
            f"beam_scores_{n}": scores,
        }
    return out


def write_tiny():
    config = tiny_config()
    for seed in range(500, 600):
        model = build(config, seed, wide_dt=False)
        with torch.no_grad():
            model.lm_head.weight.mul_(1.6)
        generated = generation_tensors(model, seed)
        if generated is None:
            continue
        greedy = [generated[f"greedy_{n}"].tolist() for n in PROMPTS]
        beams = [generated[f"beams_{n}"][0].tolist() for n in PROMPTS]
        ended, full = sum(0 in g for g in greedy), sum(0 not in g for g in greedy)
        mixed = any(
            len({(-1 in r) for r in generated[f"beams_{n}"].tolist()}) == 2 for n in PROMPTS
        )
        # A useful golden has prompts that end, prompts that do not, and beams that beat greedy.
        if (
            ended
            and full
            and mixed
            and sum(g != [t for t in b if t >= 0] for g, b in zip(greedy, beams)) >= 2
        ):
            break
    else:
        raise RuntimeError("no seed gives a telling generation")
    print("tiny: seed", seed, {k: v.tolist() for k, v in generated.items()})

    gen = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 40, (2, 11), generator=gen)
    double = MambaForCausalLM(config).eval()
    double.load_state_dict(model.state_dict())
    double.double()
    with torch.no_grad(), exact():
        logits = double(ids, use_cache=False).logits
    expected = {"input_ids": ids, "logits": logits, **generated}

    hf, ssm, lora = DATA / "tiny_hf", DATA / "tiny_ssm", DATA / "peft_lora"
    for folder in (hf, ssm, lora):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(hf)
    (hf / "generation_config.json").unlink()
    save(hf / "expected.safetensors", expected)

    ssm.mkdir(parents=True)
    state = model.state_dict()  # lm_head shares the embedding's storage, as in the published files
    torch.save(
        type(state)(
            (k.replace("backbone.embeddings.", "backbone.embedding."), v) for k, v in state.items()
        ),
        ssm / "pytorch_model.bin",
    )
    (ssm / "config.json").write_text(
        json.dumps(
            {
                "d_model": config.hidden_size,
                "n_layer": config.num_hidden_layers,
                "vocab_size": 37,  # padded up to 40
                "ssm_cfg": {"d_state": config.state_size, "d_conv": config.conv_kernel},
                "rms_norm": True,
                "residual_in_fp32": True,
                "fused_add_norm": True,
                "pad_vocab_size_multiple": 8,
                "tie_embeddings": True,
            },
            indent=4,
        )
        + "\n"
    )
    save(ssm / "expected.safetensors", {"input_ids": ids, "logits": logits})

    targets = ["in_proj", "x_proj", "dt_proj", "out_proj"]
    tuned = get_peft_model(
        model,
        LoraConfig(
            r=3,
            lora_alpha=6,
            target_modules=targets,
            lora_dropout=0.1,
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path="tiny_hf",
        ),
    ).eval()
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.25)
    tuned.save_pretrained(lora)
    (lora / "README.md").unlink(missing_ok=True)
    text = json.loads((lora / "adapter_config.json").read_text())
    text["base_model_name_or_path"] = "tiny_hf"
    text["target_modules"] = sorted(text["target_modules"])
    (lora / "adapter_config.json").write_text(json.dumps(text, indent=2) + "\n")
    tuned.double()
    with torch.no_grad(), exact():
        adapted = tuned(input_ids=ids, use_cache=False).logits
        merged = tuned.merge_and_unload()
        merged_logits = merged(ids, use_cache=False).logits
    print(
        "peft_lora: adapter moves the logits by",
        relative(adapted, logits),
        "merged differs by",
        relative(merged_logits, adapted),
    )
    save(
        lora / "expected.safetensors",
        {"input_ids": ids, "logits": adapted, "logits_merged": merged_logits},
    )


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for k, spec in enumerate(CASES):
        write_case(k, spec)
    write_tiny()


if __name__ == "__main__":
    main()
