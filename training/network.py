"""The networks in training: the engine's own modules, run on crops of the 1024-pixel frame."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sam_engine.decoder import PromptDecoder
from sam_engine.engine import PIXEL_MEAN, PIXEL_STD
from sam_engine.modeling.build import Sam
from sam_engine.modeling.instance_head import InstanceHead
from sam_engine.modeling.mask_decoder import NUM_HEADS, Attention, TwoWayAttentionBlock
from sam_engine.modeling.tiny_vit import OUT_CHANNELS, TinyViT, TinyViTBlock

TOKEN_PX = 16
FRAME_TOKENS = 64
HEAD_CHANNELS = 16  # of an attention head of the mask decoder
GUIDE_CHANNELS = 4
FREQUENCIES = 8  # of them carry sines, as many cosines


class PromptBatch(NamedTuple):
    """Prompts of B crops, P each with T tokens; see `training.prompts.Prompts`.

    `coords` are in the frame, so the crop's place in it has been added.
    """

    coords: Tensor
    labels: Tensor
    objects: Tensor
    inclusions: Tensor
    ambiguous: Tensor


class Masks(NamedTuple):
    """Logits (B * P, 4, s/4, s/4) and predicted IoU (B * P, 4)."""

    logits: Tensor
    iou: Tensor


class Seen(NamedTuple):
    """Image embeddings (B, 256, s/16, s/16), head outputs (B, 5, s/2, s/2), guide (B, 4, s/8, s/8)."""

    embeddings: Tensor
    field: Tensor
    guide: Tensor


class DropletNetwork(nn.Module):
    """Encoder, prompt decoder and dense head, trained together.

    `guide` reads object, centre and size off the image embedding and is thrown away after training: the dense
    head can do so much from early features alone that without it the attention stages learn nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sam = Sam(TinyViT())
        self.head = InstanceHead()
        self.guide = nn.Sequential(nn.Conv2d(OUT_CHANNELS, GUIDE_CHANNELS * 4, 1), nn.PixelShuffle(2))

    def encode(self, pictures: Tensor, dtype: torch.dtype) -> Seen:
        """(B, 3, s, s) uint8 to what encoder, head and guide say, in float32."""
        mean, std = (
            torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD)
        )
        x = ((pictures.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pictures.device.type, dtype, enabled=dtype != torch.float32):
            features = self.sam.image_encoder(x)
            field = self.head(x, features)
        embeddings = features.stride16.float()
        return Seen(embeddings, field.float(), self.guide(embeddings))

    def decode(
        self,
        embeddings: Tensor,
        offsets: Tensor,
        prompts: PromptBatch,
        dtype: torch.dtype,
        mask_input: Tensor | None = None,
    ) -> Masks:
        """Masks of every prompt.

        Args:
            offsets: (B, 2) int64, column and row of each crop in the frame, in image tokens.
            mask_input: (B, P, s/4, s/4) logits, a mask for each prompt.
        """
        rows, columns = embeddings.shape[2:]
        encoder = self.sam.prompt_encoder
        sparse = encoder.sparse(prompts.coords, prompts.labels)
        logits, scores = [], []
        for i, (column, row) in enumerate(offsets.tolist()):
            window = slice(row, row + rows), slice(column, column + columns)
            decoder = PromptDecoder(self.sam, dtype, window)
            image = embeddings[i].flatten(1).T
            if mask_input is None:  # all prompts of a crop share its image tokens
                blocks = [(encoder.dense(None)[0], sparse[i])]
            else:
                blocks = list(zip(encoder.dense(mask_input[i][:, None]), sparse[i][:, None], strict=True))
            for ground, tokens in blocks:
                decoded = decoder.decode(decoder.prepare(image + ground), tokens)
                everything = torch.arange(len(tokens), device=tokens.device)
                logits.append(decoder.draw(decoded, everything, slice(0, 4)))
                scores.append(decoded.iou_predictions)
        return Masks(torch.cat(logits), torch.cat(scores))


def initialise(network: DropletNetwork, seed: int) -> None:
    """Weights from which training starts.

    Token-image attentions start as positional kernels: queries and keys get the same pattern over the
    frequencies of the positional encoding, each head its own band, so that a point looks at its own place
    from the first step. Without that, clicks take hours to learn where they are.
    """
    torch.manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=min(0.05, part.in_features**-0.5))
            nn.init.zeros_(part.bias)
    for value in (*network.head.out.parameters(), *network.guide.parameters()):
        nn.init.zeros_(value)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, TinyViTBlock):
                _initialise_block(part)
        _initialise_prompts(network.sam)
        _initialise_decoder(network.sam)


def _initialise_block(block: TinyViTBlock) -> None:
    """What a block adds is small at first, and its filter lets everything through.

    Batch normalisation brings the sum back to one size in every block, so that what is added would otherwise
    outgrow what it is added to: no residual is left, and gradients of the early layers become noise.
    """
    for linear in (block.attn.qkv, block.mlp.fc1):
        nn.init.trunc_normal_(linear.weight, std=0.02)
    for last in (block.attn.proj, block.mlp.fc2):
        nn.init.trunc_normal_(last.weight, std=0.01)
    kernel = block.local_conv.get_parameter("c.weight")
    nn.init.normal_(kernel, std=0.05)
    kernel[:, 0, 1, 1] += 1


def _initialise_prompts(sam: Sam) -> None:
    encoder = sam.prompt_encoder
    bands = torch.cat([
        torch.tensor([1.0, 1.0, 2.0, 2.0, 3.5, 3.5, 6.0, 6.0]).repeat_interleave(FREQUENCIES),
        torch.tensor([0.5, 1.0, 2.0, 4.0]).repeat_interleave(2 * FREQUENCIES),
    ])  # fmt: skip
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    matrix.copy_(torch.randn_like(matrix) * bands)
    for embedding in (*encoder.point_embeddings, encoder.not_a_point_embed):
        for value in embedding.parameters():
            nn.init.normal_(value, std=0.25)
    nn.init.normal_(encoder.no_mask_embed.weight, std=0.02)
    nn.init.zeros_(encoder.mask_downscaling[-1].weight)  # type: ignore[arg-type]  # a mask says nothing at first


def _initialise_decoder(sam: Sam) -> None:
    decoder = sam.mask_decoder
    nn.init.normal_(decoder.iou_token.weight, std=0.5)
    nn.init.normal_(decoder.mask_tokens.weight, std=0.5)
    transformer = decoder.transformer
    blocks = [layer for layer in transformer.layers if isinstance(layer, TwoWayAttentionBlock)]
    first, second = blocks
    for attention, strength in (
        (first.cross_attn_token_to_image, 1.5),
        (first.cross_attn_image_to_token, 1.2),
        (second.cross_attn_token_to_image, 1.5),
        (second.cross_attn_image_to_token, 1.2),
        (transformer.final_attn_token_to_image, 1.5),
    ):
        _look_at_own_place(attention, strength)
    for block, kept in zip(blocks, (1.0, 0.5), strict=True):
        attention = block.self_attn
        nn.init.trunc_normal_(attention.v_proj.weight, std=0.5 / math.sqrt(256))
        nn.init.trunc_normal_(attention.out_proj.weight, std=0.5 / math.sqrt(256))
        attention.v_proj.weight += torch.eye(256)
        attention.out_proj.weight += kept * torch.eye(256)
    list(decoder.iou_prediction_head.parameters())[-1].fill_(0.5)
    for network in decoder.output_hypernetworks_mlps:  # so that the first masks are undecided, not wrong
        list(network.parameters())[-2].mul_(0.1)


def _look_at_own_place(attention: Attention, strength: float) -> None:
    for projection in (attention.q_proj, attention.k_proj):
        nn.init.trunc_normal_(projection.weight, std=0.35 / math.sqrt(256))
        projection.bias.zero_()
        for head in range(NUM_HEADS):
            for k in range(FREQUENCIES):
                frequency = head * FREQUENCIES + k
                projection.weight[head * HEAD_CHANNELS + k, frequency] += strength
                projection.weight[head * HEAD_CHANNELS + FREQUENCIES + k, 128 + frequency] += strength
