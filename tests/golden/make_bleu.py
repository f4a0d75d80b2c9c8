"""Writes data/bleu_cases.json: corpus BLEU by sacreBLEU, Matthews correlation and accuracy. See README.md."""

import json
import math
import random

from sacrebleu.metrics import BLEU

from common import DATA

WORDS = (
    "the a cat dog sat on mat in near park restaurant serves cheap Italian food , and it is family-friendly . Its rating 5 out of "
    '5 ! The Punter , located riverside ; price range £20-25 ( moderate ) " great " U.S. 3.14 1,000 don\'t Größe café 東京 Москва '
    "naïve — … x-ray 10-20 e.g. & &amp; &quot;hi&quot; &lt;b&gt; A/B 50% $5.00 #1 @home a_b C++ [x] {y} ~z"
).split()


def sentence(rng, low=1, high=18):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def disturb(rng, text):
    words = text.split()
    for _ in range(rng.randint(0, max(1, len(words) // 3))):
        i = rng.randrange(len(words))
        action = rng.random()
        if action < 0.35:
            words[i] = rng.choice(WORDS)
        elif action < 0.6 and len(words) > 1:
            del words[i]
        elif action < 0.8:
            words.insert(i, rng.choice(WORDS))
        else:
            j = rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
    return " ".join(words)


def score(hypotheses, references):
    width = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(width)]
    result = BLEU().corpus_score(hypotheses, streams)
    return {
        "hypotheses": hypotheses,
        "references": references,
        "bleu": result.score,
        "bp": result.bp,
        "precisions": result.precisions,
        "counts": result.counts,
        "totals": result.totals,
        "sys_len": result.sys_len,
        "ref_len": result.ref_len,
    }


SPECIAL = [
    (["the cat sat on the mat ."], [["the cat sat on the mat ."]]),
    ([""], [["the cat"]]),
    (["", "the cat sat on the mat"], [["a dog"], ["the cat sat on the mat", "a cat sat on a mat"]]),
    (["completely different words here today"], [["nothing whatever in common at all"]]),
    (["the the the the the the the"], [["the cat is on the mat", "there is a cat on the mat"]]),
    (["one"], [["one"]]),
    (["one two three"], [["one two three"]]),
    (
        ["It costs $1,000.50 (approx. 3.14%), in the U.S.A.-based 'shop'."],
        [["It costs $1,000.50 (approx. 3.14 %), in the U.S.A. - based 'shop'."]],
    ),
    (["Tom &amp; Jerry said &quot;hi&quot; &lt;b&gt;"], [['Tom & Jerry said "hi" <b>']]),
    (
        ["東京 は 大きい 。 Größe — naïve café"],
        [["東京 は 大きい 。 Größe – naïve café", "東京は大きい。 Größe"]],
    ),
    (["  spaced   out \t words  "], [["spaced out words", " spaced out  words and more"]]),
    (
        ["a-b 10-20 x-ray 5- -5 .5 5. 1.5, 1,5 a,b a.b"],
        [["a - b 10 - 20 x-ray 5 - - 5 .5 5 . 1.5 , 1,5 a , b a . b"]],
    ),
    (["short"], [["a much longer reference sentence than the hypothesis is", "tiny one"]]),
    (["line one\nline two", "<skipped> text here now"], [["line one line two"], ["text here now"]]),
    (["hyphen-\nated word at the end of line"], [["hyphenated word at the end of line"]]),
    (["The CAT Sat On The Mat"], [["the cat sat on the mat"]]),
    (
        ["no-break\u00a0space here and\u2003em space there"],
        [["no-break space here and em space there"]],
    ),
    (
        ["tie of lengths one two three four"],
        [["tie of lengths one two", "tie of lengths one two three four five six"]],
    ),
]


def classify(rng, classes, size, noise):
    labels = [rng.randrange(classes) for _ in range(size)]
    # -1 is an answer outside the classes: wrong for the accuracy.
    predictions = [
        y if rng.random() > noise else rng.randrange(-1 if noise > 0.5 else 0, classes)
        for y in labels
    ]
    return labels, predictions


def matthews(labels, predictions):
    """Gorodkin's R_K from the confusion matrix; 0 where a side is constant."""
    values = sorted(set(labels) | set(predictions))
    at = {v: i for i, v in enumerate(values)}
    table = [[0] * len(values) for _ in values]
    for y, p in zip(labels, predictions):
        table[at[y]][at[p]] += 1
    total, right = len(labels), sum(table[i][i] for i in range(len(values)))
    true, predicted = [sum(r) for r in table], [sum(c) for c in zip(*table)]
    numerator = right * total - sum(a * b for a, b in zip(true, predicted))
    left, other = total**2 - sum(p * p for p in predicted), total**2 - sum(t * t for t in true)
    return numerator / math.sqrt(left * other) if left * other else 0.0


def main():
    rng = random.Random(12)
    corpora = list(SPECIAL)
    while len(corpora) < 40:
        references, hypotheses = [], []
        for _ in range(rng.randint(1, 6)):
            truth = sentence(rng)
            references.append([truth] + [disturb(rng, truth) for _ in range(rng.randint(0, 4))])
            hypotheses.append("" if rng.random() < 0.06 else disturb(rng, truth))
        corpora.append((hypotheses, references))
    binary = []
    for i in range(24):
        labels, predictions = classify(
            rng, 2 if i % 3 else 4, rng.randint(1, 40), (0.1, 0.4, 0.8)[i % 3]
        )
        case = {
            "labels": labels,
            "predictions": predictions,
            "accuracy": sum(y == p for y, p in zip(labels, predictions)) / len(labels),
        }
        if -1 not in predictions:
            case["matthews"] = matthews(labels, predictions)
        binary.append(case)
    for labels, predictions in (
        ([1, 1, 1], [1, 1, 1]),
        ([0, 1], [1, 0]),
        ([0, 0, 1, 1], [1, 1, 1, 1]),
        ([0, 1, 1, 0], [0, 1, 1, 0]),
    ):
        binary.append(
            {
                "labels": labels,
                "predictions": predictions,
                "matthews": matthews(labels, predictions),
                "accuracy": sum(y == p for y, p in zip(labels, predictions)) / len(labels),
            }
        )
    cases = [score(*c) for c in corpora]
    text = (
        '{"signature":'
        + json.dumps(signature())
        + ',\n"bleu":[\n'
        + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    )
    text += '\n],\n"classification":[\n' + ",\n".join(json.dumps(c) for c in binary) + "\n]}\n"
    json.loads(text)
    DATA.mkdir(exist_ok=True)
    (DATA / "bleu_cases.json").write_text(text, encoding="utf-8")
    print(
        len(cases),
        "corpora, BLEU",
        [round(c["bleu"], 2) for c in cases],
        len(binary),
        "classifications",
        len(text),
        "characters",
    )


def signature():
    bleu = BLEU()
    bleu.corpus_score(["a"], [["a"]])
    return str(bleu.get_signature())


if __name__ == "__main__":
    main()
