"""The flags of other tools: what they are called here, or what to do instead.

Read from the help of pytorch/examples (DCGAN), StyleGAN2-ADA, lightweight-gan,
pytorch-CycleGAN-and-pix2pix, PyTorch-GAN, torch-fidelity and pytorch-fid. `docs/other-tools.md`
shows the table. Only the standard library is imported here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gan.errors import Refused

ONE_GPU = "--gpu=True takes the first GPU, and CUDA_VISIBLE_DEVICES=1 makes another one the first"


@dataclass(frozen=True)
class Alias:
    """A flag that other tools spell in one of these ways.

    It sets the first flag of `ours` that the command has, and those of `along` with it. Where the
    command has none of them, or no flag is the same, `instead` says what to do.
    """

    spellings: tuple[str, ...]
    ours: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    convert: Callable[[str], str] = str  # their value -> ours; raises ValueError, KeyError, Refused
    instead: str = ""


def _thousands(text: str) -> str:
    return str(round(float(text) * 1000))


def _opposite(text: str) -> str:
    return {"true": "False", "1": "False", "false": "True", "0": "True"}[text.lower()]


def _workers(text: str) -> str:
    """0 is the main process alone in PyTorch, and one process per core here."""
    return "1" if text == "0" else text


def _channels(grey: str) -> str:
    return {"True": "3", "False": "1"}[_opposite(grey)]


def _device(text: str) -> str:
    known = {"cpu": "False", "cuda": "True", "cuda:0": "True", "mps": "True", "auto": "auto"}
    if text not in known:
        raise Refused(ONE_GPU)
    return known[text]


def _several_gpus(count: str) -> str:
    return f"torchrun --nproc-per-node={count} main.py train ... takes several: docs/scale.md"


def _gpu_count(text: str) -> str:
    if int(text) > 1:
        raise Refused(_several_gpus(text))
    return str(text == "1")


def _gpu_ids(text: str) -> str:
    ids = text.split(",")
    if len(ids) > 1:
        raise Refused(_several_gpus(str(len(ids))))
    if text not in ("0", "-1"):
        raise Refused(ONE_GPU)
    return str(text == "0")


def _loss(text: str) -> str:
    if text == "wgangp":
        raise Refused("--family=wgan-gp has this loss and the nets that go with it")
    return {"vanilla": "logistic", "lsgan": "least-squares"}.get(text, text)


def _family(text: str) -> str:
    return {"cycle_gan": "cyclegan"}.get(text, text)


def _weights(text: str) -> str:
    if re.fullmatch(r"(resnet_\dblocks|unet_\d+|basic|n_layers|pixel)", text):
        raise Refused("the family sets the nets: --family=pix2pix has a U-Net, cyclegan ResNets")
    return text


def _augment(text: str) -> str:
    if text != "noaug":
        raise Refused("--augment=0.8 is the probability of each augmentation; it does not adapt")
    return "0"


def _features(text: str) -> str:
    return {"inception-v3-compat": "inception"}.get(text, text)


# fmt: off
TABLE = (
    # data
    Alias(
        (
            "dataroot", "data", "data_dir", "data_root", "dataset_path", "image_dir", "input",
            "src", "source",
        ),
        ("input", "data_path"),
    ),
    Alias(
        ("dataset", "dataset_name", "dataset_mode"),
        instead="--data-path takes a folder or zip; what is in it says how it is read",
    ),
    Alias(("image_size", "resolution", "crop_size", "fine_size"), ("img_size",)),
    Alias(("img_height", "img_width"), instead="pictures are square; --img-size is their side"),
    Alias(
        ("load_size",),
        instead="--img-size is the size after cropping; --jitter crops it from 286/256 of that",
    ),
    Alias(
        ("preprocess",),
        instead="the centre square is scaled to --img-size; --jitter crops pairs at random",
    ),
    Alias(("mirror", "hflip", "xflip"), ("flip",)),
    Alias(("cond",), ("conditional",)),
    Alias(("greyscale", "grayscale"), ("channels",), convert=_channels),
    Alias(
        ("input_nc", "output_nc"),
        instead="--channels-a and --channels-b are the channels of pictures A and B, either way",
    ),
    Alias(("workers", "n_cpu", "num_threads", "n_threads"), ("num_workers",), convert=_workers),
    Alias(
        ("subset", "max_dataset_size"),
        instead="all images of --data-path are used; put fewer into a folder",
    ),
    Alias(("transparent",), instead="pictures are in colour, or grey with --channels=1"),
    # nets
    Alias(("model",), ("family",), convert=_family),
    Alias(("cfg",), instead="--family says which GAN; README.md lists them"),
    Alias(("latent_dim", "z_dim", "zdim"), ("nz",)),
    Alias(
        (
            "norm", "n_layers_d", "init_type", "init_gain", "no_dropout", "n_residual_blocks",
            "fmap_max", "attn_res_layers",
        ),
        instead="the family sets the nets; each is a row of gan/families.py",
    ),
    Alias(
        ("network_capacity", "fmap_base", "cbase"),
        instead="--ngf and --ndf are the channels of G's last wide layer and of D's first one",
    ),
    Alias(
        ("freezed", "freeze_d"),
        instead="--init=RUN starts from an earlier run; D's first layers learn after a third only",
    ),
    Alias(("net_g", "network", "ckpt", "checkpoint", "weights"), ("netg_path",), convert=_weights),
    Alias(("net_d",), ("netd_path",), convert=_weights),
    # updates
    Alias(("batch", "bs"), ("batch_size",)),
    Alias(
        ("gradient_accumulate_every", "gradient_accumulation_steps", "batch_gpu"),
        instead="--batch-size is the whole batch, and --accumulate its parts; where memory is "
        "short, it is computed in parts anyway",
    ),
    Alias(("lr", "learning_rate"), ("lr1",), ("lr2",)),
    Alias(("lr_g", "g_lr", "glr"), ("lr1",)),
    Alias(("lr_d", "d_lr", "dlr"), ("lr2",)),
    Alias(("b1",), ("beta1",)),
    Alias(("b2",), ("beta2",)),
    Alias(
        ("lr_policy", "n_epochs_decay", "niter_decay", "decay_epoch"),
        instead="the learning rates fall from half of the budget on: --lr-fall, --lr-end",
    ),
    Alias(("n_critic", "critic_iters", "d_steps", "n_dis"), ("g_every",)),
    Alias(
        ("ratio", "d_g_ratio"),
        instead="--g-every=5 is five updates of D for one of G, --d-every=2 two of G for one of D",
    ),
    Alias(("ttur",), instead="--lr1 and --lr2 are the learning rates of G and D"),
    Alias(("dual_contrast_loss",), instead="--loss chooses one; `train --help` lists them"),
    Alias(("clip_value",), ("clip",)),
    Alias(("gan_mode",), ("loss",), convert=_loss),
    Alias(("lambda_gp", "gamma", "r1_gamma"), ("penalty",)),
    Alias(("lambda_l1",), ("l1",)),
    Alias(("lambda_cyc",), ("cycle",)),
    Alias(("lambda_a", "lambda_b"), instead="--cycle is the weight of both ways"),
    Alias(("lambda_identity",), ("identity",)),
    Alias(("lambda_id",), instead="--identity is a share of --cycle: 5 beside 10 is 0.5"),
    Alias(("pool_size",), ("pool",)),
    Alias(("p",), ("augment",)),
    Alias(("aug",), ("augment",), convert=_augment),
    Alias(
        ("aug_prob", "aug_types", "augpipe", "target"),
        instead="--augment is the probability of each augmentation; gan/augment.py lists them",
    ),
    Alias(("fp32",), ("amp",), convert=_opposite),
    Alias(("fp16",), instead="--amp=True computes in bfloat16"),
    Alias(("ema_kimg",), ("ema_images",), convert=_thousands),
    # device
    Alias(("device",), ("gpu",), convert=_device),
    Alias(("cuda", "accel", "use_cuda", "use_gpu"), ("gpu",)),
    Alias(("cpu", "no_cuda"), ("gpu",), convert=_opposite),
    Alias(("gpus", "ngpu"), ("gpu",), convert=_gpu_count),
    Alias(("gpu_ids",), ("gpu",), convert=_gpu_ids),
    Alias(("multi_gpus",), instead=_several_gpus("N")),
    Alias(("manual_seed", "random_seed", "rng_seed"), ("seed",)),
    # budget and files
    Alias(("epochs", "n_epochs", "num_epochs", "niter", "max_epochs"), ("max_epoch",)),
    Alias(("kimg",), ("max_images",), convert=_thousands),
    Alias(
        ("steps", "max_steps", "num_steps", "iterations", "num_train_steps"),
        instead="--max-images is steps times --batch-size",
    ),
    Alias(("dry_run",), instead="--max-images=64 ends after 64 images"),
    Alias(
        (
            "outdir", "outf", "results_dir", "output_dir", "save_dir", "models_dir",
            "checkpoints_dir",
        ),
        ("gen_dir", "output"),
        instead="files go to checkpoints/, imgs/ and runs/; --name=NAME makes a sub-folder in each",
    ),
    Alias(("out", "output"), ("file", "gen_img", "report", "output", "out")),
    Alias(("format",), ("to", "gen_format", "format")),
    Alias(("onnx",), instead="--to=onnx, or --file=faces.onnx"),
    Alias(("continue_train",), ("resume",)),
    Alias(("new",), instead="--overwrite replaces the earlier run of this name"),
    Alias(
        ("epoch", "which_epoch", "load_from", "load_iter", "epoch_count"),
        instead="--max-epoch is how many to train, --resume goes on, and --netg-path=FILE draws "
        "with the weights of one epoch, checkpoints/NAME/netg_<epoch>.pth",
    ),
    Alias(("save_epoch_freq", "checkpoint_interval"), ("save_every",)),
    Alias(
        ("snap", "save_latest_freq", "sample_interval", "display_freq", "evaluate_every"),
        instead="a save is weights and a preview: --save-every counts epochs, --save-minutes "
        "minutes",
    ),
    Alias(("print_freq",), instead="--log-every counts steps"),
    Alias(
        ("metrics", "fid", "kid", "isc", "dims", "calculate_fid_every"),
        instead="`train` takes scores as it goes (--eval-every), `evaluate` prints all it has",
    ),
    Alias(
        ("display_id", "logdir", "log_dir"),
        instead="the curves are in runs/: `tensorboard --logdir runs` shows them",
    ),
    Alias(("use_wandb",), ("wandb",)),
    # drawing and scores
    Alias(("trunc_psi", "truncation_psi"), ("gen_std",)),
    Alias(("class", "class_idx"), ("label",)),
    Alias(
        ("num_images", "num_samples", "n_samples", "num", "n", "n_images", "count"),
        ("gen_num",),
    ),
    Alias(
        ("generate", "generate_interpolation", "phase", "is_train"),
        instead="each is a command: train, generate, evaluate, translate, interpolate",
    ),
    Alias(("how_many", "num_test"), instead="`translate` takes all pictures of --input"),
    Alias(("rank",), ("rank_by",)),
    Alias(("input1",), ("fake_path",)),
    Alias(("input2",), ("data_path",)),
    Alias(("feature_extractor",), ("features",), convert=_features),
)
# fmt: on

ALIASES: Mapping[str, Alias] = {name: row for row in TABLE for name in row.spellings}


def snake_case(name: str) -> str:
    """`imageSize` -> `image_size`, `lambda_L1` -> `lambda_l1`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
