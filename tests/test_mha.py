"""Attention with SparseVD against PyTorch's own, and against its equations written as loops."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from dissect.errors import UsageError
from dissect.sparsevd import (
    MultiheadAttentionVD,
    Shadows,
    densify,
    kl_divergence,
    log_alpha,
    named_variational,
    one_sample,
    own_parameters,
    penalty,
    sparsify,
    swapped,
    unmasked,
)
from dissect.sparsevd.layers import VARIANCE_EPS
from tests.test_layers import DRAWS, assert_same_moments

B, L, S, D, H = 3, 4, 5, 6, 2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(noise="lrt", log_sigma2=-40.0, **options):
    dense = nn.MultiheadAttention(D, H, **options)
    with torch.no_grad():  # PyTorch's own start at 0
        for name, parameter in dense.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return dense, MultiheadAttentionVD.from_dense(dense, noise=noise, log_sigma2=log_sigma2)


def inputs(options, is_self=False):
    k, v = options.get("kdim", D), options.get("vdim", D)
    rows = (B, L) if options.get("batch_first") else (L, B)
    others = (B, S) if options.get("batch_first") else (S, B)
    x = torch.randn(*rows, D)
    return (x, x, x) if is_self else (x, torch.randn(*others, k), torch.randn(*others, v))


MASKS = {
    "none": {},
    "padding": {"key_padding_mask": torch.arange(S) >= torch.tensor([5, 3, 1])[:, None]},
    "mask": {"attn_mask": torch.ones(L, S).triu(2).bool()},
    "added": {"attn_mask": torch.linspace(-2, 2, L * S).view(L, S)},
    "by head": {"attn_mask": torch.linspace(-2, 2, B * H * L * S).view(B * H, L, S)},
    "both": {
        "attn_mask": torch.ones(L, S).triu(2).bool(),
        "key_padding_mask": torch.arange(S) >= torch.tensor([5, 3, 1])[:, None],
    },
}
OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False, "batch_first": True},
    {"kdim": 7, "vdim": 3},
    {"add_bias_kv": True, "batch_first": True},
    {"add_zero_attn": True},
]


@pytest.mark.parametrize("mode", ["lrt", "weight", "evaluation"])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_noise_it_is_pytorchs_own(options, masks, mode):
    dense, layer = made("weight" if mode == "weight" else "lrt", **options)
    layer.train(mode != "evaluation"), dense.train(mode != "evaluation")
    given = inputs(options)
    for more in ({}, {"average_attn_weights": False}, {"need_weights": False}):
        ours, theirs = layer(*given, **MASKS[masks], **more), dense(*given, **MASKS[masks], **more)
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
        with torch.no_grad():  # where PyTorch's own may take its fast path
            torch.testing.assert_close(layer(*given, **MASKS[masks], **more), theirs, atol=2e-3, rtol=0)


def test_one_sequence_and_a_causal_hint():
    dense, layer = made()
    x = torch.randn(L, D)
    padding = torch.tensor([False, False, False, True])
    torch.testing.assert_close(layer(x, x, x, padding), dense(x, x, x, padding), atol=2e-3, rtol=0)
    mask, y = nn.Transformer.generate_square_subsequent_mask(L), torch.randn(L, B, D)
    for more in ({}, {"need_weights": False}):
        given = {"attn_mask": mask, "is_causal": True, **more}
        torch.testing.assert_close(layer(y, y, y, **given), dense(y, y, y, **given), atol=2e-3, rtol=0)
    with pytest.raises(UsageError, match="is_causal"):
        layer(y, y, y, is_causal=True)


@pytest.mark.parametrize("is_self", [True, False])
def test_noise_against_the_equations(is_self):
    """Each projection has noise of its own; the attention between them is plain."""
    _, layer = made(log_sigma2=-2.0, batch_first=True)
    query, key, value = inputs({"batch_first": True}, is_self)
    torch.manual_seed(4)
    found, weights = layer(query, key, value)
    torch.manual_seed(4)
    w, s, b = layer.in_proj_weight, layer.in_proj_log_sigma2.exp(), layer.in_proj_bias
    if is_self:
        noise = torch.randn(B, L, 3 * D).split(D, -1)
    else:
        noise = [torch.randn(B, x.shape[1], D) for x in (query, key, value)]

    def noisy(x, w, s, b, eps):
        return x @ w.t() + b + (x**2 @ s.t() + VARIANCE_EPS).sqrt() * eps

    q, k, v = (
        noisy(x, w[part], s[part], b[part], eps)
        for x, part, eps in zip((query, key, value), (slice(D), slice(D, 2 * D), slice(2 * D, None)), noise)
    )
    read, shares = torch.zeros(B, L, D), torch.zeros(B, L, k.shape[1])
    for session in range(B):
        for head in range(H):
            at = slice(head * D // H, (head + 1) * D // H)
            for t in range(L):
                p = torch.softmax(k[session, :, at] @ q[session, t, at] / math.sqrt(D / H), 0)
                read[session, t, at] = p @ v[session, :, at]
                shares[session, t] += p / H
    out = layer.out_proj
    expected = noisy(read, out.weight, out.log_sigma2.exp(), out.bias, torch.randn(B, L, D))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, shares)


def test_projections_have_the_moments_of_sampled_weights():
    _, layer = made(log_sigma2=-1.0, batch_first=True)
    x = torch.randn(1, 1, D)  # one key: its weight is 1, so the output is linear in v
    with torch.no_grad():
        many = layer(*[x.expand(DRAWS, 1, D)] * 3)[0][:, 0]
        layer.noise = layer.out_proj.noise = "weight"
        sampled = torch.stack([layer(x, x, x)[0][0, 0] for _ in range(DRAWS)])
    assert_same_moments(many, sampled)


def test_weight_noise_is_one_draw_in_a_sample():
    _, layer = made("weight", log_sigma2=-1.0)
    given = inputs({})
    with one_sample(layer):
        assert torch.equal(layer(*given)[0], layer(*given)[0])
    assert not torch.allclose(layer(*given)[0], layer(*given)[0])


def prune_half(model):
    with torch.no_grad():
        for _, theta, log_sigma2 in named_variational(model):
            log_sigma2.copy_(torch.where(torch.rand_like(theta) < 0.5, 10.0, -10.0))


@pytest.mark.parametrize("options", [{}, {"kdim": 7, "vdim": 3}], ids=str)
def test_there_and_back(options):
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(D, H, **options)})
    before = dict(model.named_parameters())
    twin, given = copy.deepcopy(model), inputs(options)
    sparsify(model)
    assert len(own_parameters(model)) == (4 if options else 2)
    expected = sum(kl_divergence(theta, log_sigma2) for _, theta, log_sigma2 in named_variational(model))
    assert penalty(model).item() == pytest.approx(expected.item())
    prune_half(model)
    model.eval()
    for name, theta, log_sigma2 in named_variational(model):
        own = name.removeprefix("attention.") if options else "in_proj_weight"
        own = "out_proj.weight" if "out_proj" in name else own
        with torch.no_grad():
            twin["attention"].get_parameter(own)[log_alpha(theta, log_sigma2) >= 3] = 0
    masked = model["attention"](*given)
    torch.testing.assert_close(masked, twin["attention"](*given))
    with unmasked(model):
        assert not torch.allclose(model["attention"](*given)[0], masked[0])
    fresh = nn.ModuleDict({"attention": nn.MultiheadAttention(D, H, **options)})
    sparsify(fresh)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()["attention"](*given), masked)
    assert not fresh.load_state_dict(twin.state_dict(), strict=False).unexpected_keys
    densify(model)
    assert all(model.get_parameter(name) is parameter for name, parameter in before.items())
    assert type(model["attention"].out_proj) is type(twin["attention"].out_proj)
    assert set(model["attention"].out_proj.__dict__) == set(twin["attention"].out_proj.__dict__)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    torch.testing.assert_close(model["attention"](*given), masked)


def test_a_reset_leaves_the_noise_whole():
    layer = MultiheadAttentionVD(D, H, log_sigma2=-8.0)
    with torch.no_grad():
        for parameter in own_parameters(layer):
            parameter.fill_(1.0)
    layer.reset_parameters()
    assert all((parameter == -8).all() for parameter in own_parameters(layer))


def test_blocks_are_queries_keys_values_and_heads():
    _, layer = made()
    blocks = layer.blocks("in_proj_weight")
    assert list(blocks) == ["q", "q.head0", "q.head1", "k", "k.head0", "k.head1", "v", "v.head0", "v.head1"]
    assert blocks["k.head1"] == (slice(9, 12),) and blocks["v"] == (slice(12, 18),)
    assert layer.out_proj.blocks("weight")["head1"] == (slice(None), slice(3, 6))
    _, apart = made(kdim=7, vdim=3)
    assert apart.blocks("k_proj_weight") == {"head0": (slice(0, 3),), "head1": (slice(3, 6),)}
    # The rows of a head in v, and its columns in the output, are those that make it up.
    layer.eval().masked = layer.out_proj.masked = False
    given = inputs({})
    with torch.no_grad():
        expected = layer(*given)[0]
        layer.in_proj_bias.zero_()
        layer.in_proj_weight[blocks["v.head1"]] = 0
        one = layer(*given)[0]
        layer.out_proj.weight[layer.out_proj.blocks("weight")["head1"]] = 7
    torch.testing.assert_close(layer(*given)[0], one)
    assert not torch.allclose(one, expected)


@pytest.mark.parametrize("options", [{"batch_first": True}, {"batch_first": True, "kdim": 7, "vdim": 3}], ids=str)
def test_each_projection_has_a_shadow(options):
    model = nn.ModuleList([nn.MultiheadAttention(D, H, **options)])
    sparsify(model, log_sigma2=-30.0)
    shadows = Shadows(model)
    given = inputs(options, is_self="kdim" not in options)
    plain = model[0](*given)[0]
    with shadows.cast(model):
        out = model[0](*given)[0]
        out.square().sum().backward()
    assert (out - plain).abs().max() > 0.01
    grads = [theta.grad for _, theta, _ in named_variational(shadows)]
    assert len(grads) == (4 if "kdim" in options else 2)
    for grad in grads:
        assert all(part.abs().max() > 0 for part in (grad.split(D) if len(grad) == 3 * D else [grad]))


@pytest.mark.parametrize("batch_first", [True, False])
def test_swapped_inputs_go_with_their_masks(batch_first):
    _, layer = made(batch_first=batch_first)
    layer.eval()
    n = 20
    x = torch.randn(n, L, D)
    padding = torch.arange(L) >= torch.randint(1, L + 1, (n, 1))
    mask = torch.randn(n * H, L, L)
    laid = x if batch_first else x.transpose(0, 1)
    for masks in ({"key_padding_mask": padding}, {"attn_mask": mask}):
        plain = layer(laid, laid, laid, **masks)[0]
        for given, named in (((laid, laid, laid), {}), ((laid,), {"key": laid, "value": laid})):
            with swapped([layer]):
                out = layer(*given, **named, **masks)[0]
            torch.testing.assert_close(out, plain.roll(7, 0 if batch_first else 1))
    with swapped([layer.out_proj]):  # judged alone, it gets what others have read
        out = layer(laid, laid, laid)[0]
    torch.testing.assert_close(out, layer(laid, laid, laid)[0].roll(7, 0 if batch_first else 1))
    torch.testing.assert_close(layer(x[0], x[0], x[0]), layer(x[0], x[0], x[0]))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda layer: weight_norm(layer.out_proj), "computed from other parameters"),
        (lambda layer: weight_norm(layer, "in_proj_weight"), "computed from other parameters"),
        (lambda layer: prune.random_unstructured(layer.out_proj, "weight", 0.5), "computed from other parameters"),
        (lambda layer: setattr(layer, "out_proj", Doubled(D, D)), "its output projection is a Doubled"),
    ],
)
def test_an_attention_with_a_mind_of_its_own_is_left_out(change, says):
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(D, H), "lstm": nn.LSTM(D, D), "after": nn.Linear(D, D)})
    change(model["attention"])
    weight_norm(model["lstm"], "weight_hh_l0")
    report = sparsify(model)
    assert report.layers == ["after"] and says in report.left_out["attention"]
    assert "computed from other parameters" in report.left_out["lstm"]


# --- the encoder of PyTorch ---


def encoder(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.Sequential(nn.TransformerEncoder(layer, 2))


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"norm_first": True}], ids=str)
def test_the_fast_paths_of_an_encoder_do_not_pass_by(options, recwarn):
    """In evaluation PyTorch's own reads the weights past the layers: pruned ones would come back."""
    dense = encoder(**options)
    model = copy.deepcopy(dense)
    report = sparsify(model)
    assert len(report.swapped) == 8 and not report.left_out
    prune_half(model)
    x, padding = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([5, 3, 2])[:, None]
    model.eval()
    expected = model[0](x, src_key_padding_mask=padding)  # with gradients there is no fast path
    with torch.no_grad():
        fast = model[0](x, src_key_padding_mask=padding)
        torch.testing.assert_close(fast, expected)
        torch.testing.assert_close(model[0](x), model[0](x.requires_grad_()))
        assert not torch.allclose(fast, dense.eval()[0](x, src_key_padding_mask=padding), atol=1e-3)
    densify(model)
    kept = {name: value for name, value in vars(model[0].layers[0]).items() if not name.startswith("_")}
    assert kept == {name: value for name, value in vars(dense[0].layers[0]).items() if not name.startswith("_")} | {
        "activation": kept.get("activation"),
        "training": False,
    }
    assert bool(model[0].use_nested_tensor) == bool(dense[0].use_nested_tensor)
    with torch.no_grad():
        again = model[0](x, src_key_padding_mask=padding)
    real = ~padding[:, : again.shape[1]]
    torch.testing.assert_close(again[real], expected[:, : again.shape[1]][real])


def test_an_encoder_that_is_left_alone_keeps_its_fast_path():
    model = nn.ModuleDict({"encoder": encoder()[0], "after": nn.Linear(8, 8)})
    before = model["encoder"].layers[0].activation_relu_or_gelu
    sparsify(model, ["after"])
    assert model["encoder"].layers[0].activation_relu_or_gelu == before != 0
    assert model["encoder"].use_nested_tensor


def test_the_probe_runs_an_encoder_in_evaluation():
    """Its fast path would call none of the layers."""
    model = encoder().eval()
    report = sparsify(model, probe=lambda: model(torch.randn(2, 3, 8)))
    assert len(report.swapped) == 8 and not report.left_out


def test_a_decoder_runs_too():
    model = nn.Sequential(nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True))
    x, memory = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    expected = model[0](x, memory)
    sparsify(model, log_sigma2=-40.0)
    torch.testing.assert_close(model[0](x, memory), expected, atol=5e-3, rtol=0)
