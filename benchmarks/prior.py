"""I_F and I_G from one joint forward, against two separate forwards of the same network."""

import torch

from benchmarks.timing import ratio, report
from cfpp.config import load_params
from cfpp.models.codeformer.codeformer import CodeFormer


def main() -> None:
    torch.set_num_threads(1)
    params = load_params()
    prior = CodeFormer(params.prior.network, params.run.size).eval().requires_grad_(False)
    faces = torch.rand(8, 3, params.run.size, params.run.size) * 2 - 1

    @torch.inference_mode()
    def separate() -> None:
        for w in (1.0, 0.0):
            prior(faces, w=w)

    report("joint forward of the prior, 8 faces", *ratio(separate, lambda: prior.restore_pair(faces)))


if __name__ == "__main__":
    main()
