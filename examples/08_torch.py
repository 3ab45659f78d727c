"""opc.torch: kernels of opc in a PyTorch model, forward and backward. Needs pip install 'opc-compiler[torch]'."""

import torch

import opc.torch


class ConvBnRelu(torch.nn.Module):  # type: ignore[misc]
    """Convolution, batch normalisation and ReLU as one kernel, another for all gradients."""

    def __init__(self, channels: int, features: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = torch.nn.Parameter(torch.randn(features, channels, 3, 3) * (2 / (9 * channels)) ** 0.5)
        self.gamma = torch.nn.Parameter(torch.ones(features))
        self.beta = torch.nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        settings = {"training": self.training, "stride": self.stride}
        return opc.torch.conv_bn_relu(x, self.weight, self.gamma, self.beta, self.mean, self.var, **settings)


torch.manual_seed(0)
model = torch.nn.Sequential(
    ConvBnRelu(1, 8),
    ConvBnRelu(8, 16, stride=2),
    torch.nn.Flatten(),
    torch.nn.Linear(16 * 8 * 8, 2),
)
optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

# Is the picture's left or its right half brighter?
images = torch.randn(64, 1, 16, 16)
labels = (images[..., :8].mean((1, 2, 3)) > images[..., 8:].mean((1, 2, 3))).long()
images = images.to(memory_format=torch.channels_last)

losses = []
for _ in range(10):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print("loss", " ".join(f"{value:.3f}" for value in losses))
assert losses[-1] < losses[0] / 2

model.eval()
with torch.no_grad():
    right = (model(images).argmax(1) == labels).float().mean()
print(f"with running statistics {right:.0%} are right")

# Any kernel becomes a function that torch differentiates and compiles.
swish = opc.torch.function("kernel swish(x: T[N]) -> (y: T[N]) { y[i] = x[i] * sigmoid(x[i]) }", wrt=["x"])
x = torch.linspace(-2, 2, 9, requires_grad=True)
swish(x).sum().backward()
wanted = torch.autograd.grad(torch.nn.functional.silu(x).sum(), x)[0]
print("swish agrees with torch:", torch.allclose(x.grad, wanted))
