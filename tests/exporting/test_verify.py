import numpy as np
import pytest

from vitnext.card import Card
from vitnext.errors import InputError, WorkError
from vitnext.exporting.verify import Agreement, synthetic_images, verify
from vitnext.preprocess import Preprocess


class Recorded:
    """An engine that turns the mean of an image into three logits, and remembers the batches it was given."""

    def __init__(self, change=lambda logits: logits, licence="CC0-1.0"):
        preprocess = Preprocess((4, 6), color="L", mean=(0.0,), std=(1.0,))
        self.card = Card("classification", "none", {}, ("a", "b", "c"), preprocess, {}, {}, {}, {}, licence)
        self.change, self.batches = change, []

    def run(self, batch):
        self.batches.append(len(batch))
        mean = batch.mean(axis=(1, 2, 3))
        return self.change(np.stack([mean, 1 - mean, 0.5 * mean], axis=1))


def grey_images(count):
    return [np.full((4, 6), value, np.uint8) for value in np.linspace(0, 255, count).astype(int)]


@pytest.mark.parametrize("count, batches", [(1, [1, 3]), (2, [1, 6]), (8, [1, 8]), (20, [1, 8, 8, 4])])
def test_one_image_alone_and_all_in_batches(count, batches):
    engine = Recorded()
    assert verify(engine, engine, iter(grey_images(count))) == Agreement(count, 0, 0.0)
    assert engine.batches == [size for size in batches for _ in range(2)]


def test_largest_difference_is_of_probabilities():
    agreement = verify(Recorded(), Recorded(lambda logits: logits + np.float32([3e-4, 0, 0])), grey_images(9))
    assert agreement.images == 9
    assert 5e-5 < agreement.max_difference < 7.5e-5  # p (1 - p) times the change of the logit


@pytest.mark.parametrize(
    "change, figure",
    [
        (lambda logits: logits + np.float32([1e-2, 0, 0]), r"by up to 0\.0025 \(allowed: 0\.0001\)"),
        (lambda logits: logits[:, ::-1], "and 5 of 11 labels changed"),
        (lambda logits: logits * np.nan, "nan"),
    ],
)
def test_disagreement_is_an_error_with_the_figures(change, figure):
    with pytest.raises(WorkError, match=figure):
        verify(Recorded(), Recorded(change), grey_images(10))


def near(gap):
    """Logits of two classes that differ by ``gap``, whatever the image."""
    return lambda logits: np.float32([[gap, 0, -1]]).repeat(len(logits), axis=0)


def test_changed_label_is_an_error_unless_the_classes_tie():
    verify(Recorded(near(1e-7)), Recorded(near(-1e-7)), grey_images(3))
    with pytest.raises(WorkError, match=r"by up to 9.8e-06 .* 7 of 7 labels changed"):
        verify(Recorded(near(2e-5)), Recorded(near(-2e-5)), grey_images(2))


def test_card_must_be_the_same():
    with pytest.raises(WorkError, match="card"):
        verify(Recorded(), Recorded(licence="Apache-2.0"), grey_images(3))


@pytest.mark.parametrize("broken", [[0], [3, 8], [10]])
def test_images_that_cannot_be_read_are_passed_over_and_counted(broken):
    images, engine = grey_images(10), Recorded()
    for place in broken:
        images.insert(place, "nowhere.jpg")
    assert verify(engine, engine, images) == Agreement(10, len(broken), 0.0)
    assert engine.batches == [1, 1, 8, 8, 2, 2]


def test_images_that_cannot_be_compared():
    with pytest.raises(InputError, match="^there are no images; "):
        verify(Recorded(), Recorded(), [])
    with pytest.raises(InputError, match=r"^none of the 2 images can be read: nowhere\.jpg: .*; "):
        verify(Recorded(), Recorded(), ["nowhere.jpg", "nowhere.png"])


def test_synthetic_images_are_varied_and_always_the_same():
    for size in [(224, 224), (28, 28), (3, 5)]:
        images = synthetic_images(Preprocess(size))
        assert len(images) == 8 and all(image.shape == (*size, 3) and image.dtype == np.uint8 for image in images)
        assert len({image.tobytes() for image in images}) == 8
        assert np.array_equal(images, synthetic_images(Preprocess(size)))
