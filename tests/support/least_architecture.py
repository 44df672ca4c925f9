"""A model of hardly any size, for tests of training's way rather than of what comes of it."""

from models.training.scratch_model import Architecture

LEAST_ARCHITECTURE = Architecture(
    hidden_size=32,
    intermediate_size=64,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    mrope_section=(4, 2, 2),
    vision_hidden_size=16,
    vision_intermediate_size=32,
    vision_depth=1,
    vision_num_heads=1,
    vision_full_attention_layers=(0,),
)
