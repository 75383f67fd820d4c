"""PatchGAN and its BatchNorm against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np

from v2l_jax.training.discriminator import BatchNorm, PatchDiscriminator


def test_batch_norm_in_training_and_evaluation_matches_torch(torch):
    random = np.random.RandomState(0)
    x = random.randn(3, 4, 5, 6).astype("f4") * 2 + 1
    scale, bias = random.randn(2, 6).astype("f4")
    reference = torch.nn.BatchNorm2d(6)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(scale))
        reference.bias.copy_(torch.tensor(bias))
        trained = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        reference.eval()
        evaluated = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    params = {"scale": scale, "bias": bias}
    stats = {"mean": jnp.zeros(6), "var": jnp.ones(6)}
    x = jnp.asarray(x)
    y, updated = BatchNorm().apply(
        {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, trained, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], reference.running_var, rtol=1e-5)
    y = BatchNorm().apply({"params": params, **updated}, x, train=False)
    np.testing.assert_allclose(y, evaluated, rtol=1e-5, atol=1e-5)


def test_each_logit_sees_a_patch():
    """Two strided and two plain 4×4 convolutions see 34 pixels, so a far corner cannot matter."""
    discriminator = PatchDiscriminator(channels=8)
    image = jnp.asarray(np.random.RandomState(0).rand(1, 64, 64, 3), jnp.float32)
    variables = discriminator.init(jax.random.key(0), image, train=False)

    @jax.jit
    def first_logit_gradient(image):
        return jax.grad(lambda x: discriminator.apply(variables, x, train=False)[0, 4, 4, 0])(image)

    seen = np.argwhere(np.abs(first_logit_gradient(image)[0]).sum(-1) > 0)
    assert (seen.max(0) - seen.min(0) + 1).tolist() == [34, 34]
    assert discriminator.apply(variables, image, train=False).shape == (1, 14, 14, 1)
