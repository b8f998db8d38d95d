"""A running average of weights, which is better than the last ones and is what ships."""

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential average of parameters and statistics; integers are copied.

    Args:
        decay: of the past at each update; early on the past counts less.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the weights of now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = network.state_dict()
        floating = [name for name, value in self.weights.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.weights[n] for n in floating], [now[n] for n in floating], 1 - decay)
        for name in self.weights.keys() - floating:
            self.weights[name].copy_(now[name])

    def state_dict(self) -> dict[str, Any]:
        """For `torch.save`."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.updates = int(state["updates"])
        weights: dict[str, Tensor] = state["weights"]
        self.weights = {name: value.clone() for name, value in weights.items()}
