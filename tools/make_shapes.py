"""Draw the embedded data sets: shapes, digits or a patchwork, to detect and to segment.

Each image shows a few textured shapes among clutter, with occlusion, uneven light and noise.
Classes share outlines (disk, ladybird), textures (crate, pennant) and often colours, so that none
of these alone tells the class. With --data digits, each image shows real handwriting on a real
photograph; both ship inside scikit-learn and scikit-image, and few images are drawn, so that
students overfit. --data patchwork is another domain than shapes, for transfer sets: other
outlines, textures and grounds, and none of the classes. The same scenes are written in two
layouts, which the stock loaders read:

    data/shapes/coco/         annotations/instances_{train,val}.json
                              train/*.jpg  val/*.jpg
    data/shapes/cityscapes/   leftImg8bit/{train,val}/shapes/*_leftImg8bit.png
                              gtFine/{train,val}/shapes/*_labelTrainIds.png
"""
import argparse
from pathlib import Path

from shapes.dataset import SHAPES, WRITERS, Drawing, make_shapes
from shapes.patchwork import PATCHWORK

# To train and to validate.
_COUNT = dict(shapes=(1600, 500), digits=(320, 500), patchwork=(1600, 500))

_EPILOG = """\
The same options draw the same bytes. What is there already is kept; other files are never
overwritten.

examples:
  python tools/make_shapes.py
  python tools/make_shapes.py --data digits
  python tools/make_shapes.py --data patchwork --layout cityscapes
  python tools/make_shapes.py --layout cityscapes --size 512 1024 --count 2000 500 \\
      --out data/shapes_large"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', choices=list(_COUNT), default='shapes',
                        help='what to draw; digits needs scikit-learn and scikit-image '
                        '(default: %(default)s)')
    parser.add_argument('--out', type=Path,
                        help='folder to hold coco/ and cityscapes/ (default: data/DATA)')
    parser.add_argument('--size', type=int, nargs='+', default=[96], metavar='N',
                        help='height and width of the images, or one number for both; objects '
                        'grow with them (default: 96)')
    parser.add_argument('--count', type=int, nargs=2,
                        metavar=('TRAIN', 'VAL'),
                        help='number of images; a larger number adds images and keeps the first '
                        'ones as they are (default: 1600 500, of digits 320 500)')
    parser.add_argument('--seed', type=int, default=0,
                        help='another seed draws other images (default: %(default)s)')
    parser.add_argument('--layout', nargs='+', choices=list(WRITERS), default=list(WRITERS),
                        help='what to write: coco to detect, cityscapes to segment '
                        '(default: both)')
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes one number, or height and width')
    args.out = args.out or Path('data', args.data)
    args.count = args.count or _COUNT[args.data]
    return args


def find_drawing(data: str) -> Drawing:
    """Find what to draw."""
    if data != 'digits':
        return dict(shapes=SHAPES, patchwork=PATCHWORK)[data]
    try:
        from shapes.digits import DIGITS
    except ModuleNotFoundError as error:
        raise SystemExit(f'make_shapes.py: --data digits: {error}; run '
                         'pip install scikit-learn scikit-image') from None
    return DIGITS


def main() -> None:
    args = parse_args()
    try:
        make_shapes(args.out, (args.size[0], args.size[-1]), args.count, args.seed, args.layout,
                    find_drawing(args.data))
    except (ValueError, OSError) as error:
        raise SystemExit(f'make_shapes.py: {error}') from None
    print(f'{args.out}: {" and ".join(args.layout)} ready')


if __name__ == '__main__':
    main()
