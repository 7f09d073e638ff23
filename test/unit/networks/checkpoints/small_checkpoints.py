"""Small networks of the true classes, with numbers of which no two alike can be swapped unseen, and their files."""

import open_clip
import timm
from timm.layers import LayerNorm2d
import torch
from torch import nn
from transformers import EomtConfig, EomtForUniversalSegmentation

EOMT = {
    'image_size': 64, 'patch_size': 16, 'hidden_size': 32, 'num_hidden_layers': 4, 'num_attention_heads': 2,
    'num_blocks': 2, 'num_queries': 6, 'num_labels': 3, 'num_register_tokens': 2,
}  # fmt: skip
MASK2FORMER = {
    'feature_size': 32, 'mask_feature_size': 32, 'hidden_dim': 32, 'encoder_feedforward_dim': 48, 'encoder_layers': 2,
    'decoder_layers': 4, 'num_attention_heads': 4, 'dim_feedforward': 48, 'num_queries': 6, 'num_labels': 3,
    'backbone_config': {
        'model_type': 'swin', 'image_size': 64, 'embed_dim': 16, 'depths': [1, 1, 2, 1], 'num_heads': [1, 2, 2, 4],
        'window_size': 4, 'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
    },
}  # fmt: skip
_TEXT = {'context_length': 77, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 2}
CLIPS = {
    'tiny-vit': {
        'embed_dim': 24,
        'quick_gelu': True,
        'vision_cfg': {'image_size': 32, 'layers': 2, 'width': 32, 'head_width': 16, 'patch_size': 8},
        'text_cfg': _TEXT,
    },
    'tiny-convnext': {
        'embed_dim': 24,
        'vision_cfg': {'timm_model_name': 'convnext_atto', 'timm_pool': '', 'timm_proj': 'mlp', 'image_size': 64},
        'text_cfg': _TEXT,
    },
}
CLASSIFIERS = {
    'tiny-vit': {'type': 'open_clip', 'image_size': 48, 'seve_blocks': 1, 'seve_width': 8, 'seve_heads': 2},
    'tiny-convnext': {'type': 'pooled', 'image_size': 64},
}


def register_clips(monkeypatch):
    """Make the small CLIP models known to open_clip."""
    for name, config in CLIPS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


@torch.no_grad()
def scramble(module, seed=0):
    """Fill every weight with numbers of its own, of a size at which signals survive; return the module."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(module.state_dict().items()):
        if not tensor.is_floating_point() or 'pixel_' in name or name.endswith('attn_mask_probs'):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * 0.5 / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(0.1 * noise + (0.0 if name.endswith('bias') else 1.0))
    return module.eval()


def eomt(config=EOMT, seed=0):
    """Return an EoMT of transformers as it is used: without masked attention."""
    model = scramble(EomtForUniversalSegmentation(EomtConfig(**config)), seed)
    model.attn_mask_probs.zero_()
    return model


def clip(name, seed=0):
    """Return a whole CLIP of open_clip."""
    model = scramble(open_clip.create_model(name, pretrained_image=False), seed)
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    return model


class _Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.backbone = timm.create_model(
            'vit_small_patch14_reg4_dinov2', pretrained=False, img_size=config['image_size'],
            patch_size=config['patch_size'], num_classes=0, embed_dim=config['hidden_size'],
            depth=config['num_hidden_layers'], num_heads=config['num_attention_heads'],
            reg_tokens=config['num_register_tokens'],
        )  # fmt: skip
        self.register_buffer('pixel_mean', torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer('pixel_std', torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))


class _Upscale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, 2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = LayerNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv2(nn.functional.gelu(self.conv1(x))))


class NativeEomt(nn.Module):
    """EoMT under the names and with the timm parts that its authors' checkpoints have, at inference."""

    def __init__(self, config=EOMT):
        super().__init__()
        width = config['hidden_size']
        self.num_blocks = config['num_blocks']
        self.encoder = _Encoder(config)
        self.q = nn.Embedding(config['num_queries'], width)
        self.class_head = nn.Linear(width, config['num_labels'] + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(_Upscale(width), _Upscale(width))
        self.register_buffer('attn_mask_probs', torch.zeros(self.num_blocks))
        scramble(self)

    def forward(self, image):
        """Return mask and class logits of rgb in [0, 1]."""
        vit = self.encoder.backbone
        tokens = vit._pos_embed(vit.patch_embed((image - self.encoder.pixel_mean) / self.encoder.pixel_std))
        for index, block in enumerate(vit.blocks):
            if index == len(vit.blocks) - self.num_blocks:
                tokens = torch.cat([self.q.weight.expand(len(tokens), -1, -1), tokens], 1)
            tokens = block(tokens)
        tokens = vit.norm(tokens)
        count = self.q.num_embeddings
        queries, patches = tokens[:, :count], tokens[:, count + vit.num_prefix_tokens :]
        grid = self.upscale(patches.transpose(1, 2).unflatten(-1, vit.patch_embed.grid_size))
        return (self.mask_head(queries) @ grid.flatten(2)).unflatten(-1, grid.shape[-2:]), self.class_head(queries)

    def checkpoint(self):
        """Return the tensors as a training run of the authors saves them."""
        tensors = {f'network.{name}': tensor.clone() for name, tensor in self.state_dict().items()}
        return tensors | {'criterion.empty_weight': torch.ones(self.class_head.out_features)}
