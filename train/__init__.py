"""Training: one `Trainer`, many objectives, one thin script per stage.

python -m train.pretrain configs/demo/pretrain.toml
torchrun --standalone --nproc_per_node=2 -m train.pretrain configs/demo/pretrain.toml
"""
