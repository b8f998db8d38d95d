"""Image embeddings and instance fields as records on disk."""

import torch

from sam_engine.store import Record, TensorStore
from sam_engine.types import ImageEmbedding, InstanceField, InstanceFields

FIELDS = "-fields"
ORIGIN_XY = (0, 0)


class EmbeddingStore(TensorStore):
    """What the network sees in a picture, under the digest of picture, checkpoint, backend and precision."""

    def embedding(self, key: str, device: torch.device) -> ImageEmbedding | None:
        """The embedding of that key, or None."""
        record = self.load(key)
        if record is None:
            return None
        about, field, early = record.about, record.tensors.get("field"), record.tensors.get("early")
        return ImageEmbedding(
            features=record.tensors["features"].to(device),
            instance_field=None if field is None else InstanceField(field, ORIGIN_XY, tuple(about["pitch"])),
            original_size=tuple(about["original_size"]),
            input_size=tuple(about["input_size"]),
            key=key,
            early=None if early is None else early.to(device),
        )

    def keep_embedding(self, embedding: ImageEmbedding) -> None:
        """Write it under its key."""
        tensors = {"features": embedding.features.cpu()}
        about: dict[str, object] = {
            "original_size": embedding.original_size,
            "input_size": embedding.input_size,
        }
        if embedding.early is not None:
            tensors["early"] = embedding.early.cpu()
        if embedding.instance_field is not None:
            tensors["field"] = embedding.instance_field.values
            about["pitch"] = embedding.instance_field.pitch_yx
        self.save(embedding.key, Record(tensors, about))

    def fields(self, key: str) -> InstanceFields | None:
        """The fields kept beside the embedding of that key, or None."""
        record = self.load(key + FIELDS)
        if record is None:
            return None
        pitches = record.about["pitches"]
        return InstanceFields(
            tuple(
                InstanceField(record.tensors[str(i)], ORIGIN_XY, tuple(pitch))
                for i, pitch in enumerate(pitches)
            )
        )

    def keep_fields(self, key: str, kept: InstanceFields) -> None:
        """Write them beside the embedding of that key."""
        tensors = {str(i): field.values for i, field in enumerate(kept.fields)}
        self.save(key + FIELDS, Record(tensors, {"pitches": [field.pitch_yx for field in kept.fields]}))
