"""Teach a small network to read handwritten digits, and keep the model and a picture of its mistakes.

    spell run --pip scikit-learn "python train.py"

The 1,797 digits come with scikit-learn, so nothing is downloaded.
"""

import struct
import zlib
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

EPOCHS = 10
BATCH = 32
CELL = 48  # pixels per cell of the picture

# Digits of 3 x 5 pixels, one row per number, the leftmost pixel first.
GLYPHS = ["75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717"]


def train(images: np.ndarray, digits: np.ndarray) -> MLPClassifier:
    """Fit a classifier, epoch by epoch, and print how well it reads digits it has not seen."""
    rng = np.random.default_rng(0)
    fit_x, test_x, fit_y, test_y = train_test_split(images, digits, test_size=0.25, random_state=0)
    model = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=0.003, random_state=0)
    for epoch in range(1, EPOCHS + 1):
        order = rng.permutation(len(fit_x))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            model.partial_fit(fit_x[batch], fit_y[batch], classes=np.arange(10))
        seen = accuracy_score(fit_y, model.predict(fit_x))
        unseen = accuracy_score(test_y, model.predict(test_x))
        print(f"epoch {epoch:2d}  training accuracy {seen:.4f}  test accuracy {unseen:.4f}")
    joblib.dump(model, "model.joblib")
    draw(confusion_matrix(test_y, model.predict(test_x)), "confusion_matrix.png")
    return model


def draw(matrix: np.ndarray, path: str) -> None:
    """Draw a confusion matrix: a row for each true digit, a column for each answer, darker for more."""
    share = matrix / matrix.sum(axis=1, keepdims=True)
    white, blue = np.array([247, 251, 255]), np.array([8, 48, 107])
    # Square root: a single mistake should be seen next to forty right answers.
    colors = white + (blue - white) * np.sqrt(share)[..., None]
    picture = np.repeat(np.repeat(colors, CELL, axis=0), CELL, axis=1).astype(np.uint8)
    picture[::CELL] = picture[:, ::CELL] = 255
    for row, column in np.argwhere(matrix):
        ink = white if share[row, column] > 0.3 else blue
        write(picture, row * CELL + CELL // 2, column * CELL + CELL // 2, str(matrix[row, column]), ink)
    write_png(picture, path)


def write(picture: np.ndarray, y: int, x: int, text: str, ink: np.ndarray, scale: int = 3) -> None:
    """Write a number around the point (x, y)."""
    glyphs = [[[int(bits) >> (2 - i) & 1 for i in range(3)] + [0] for bits in GLYPHS[int(c)]] for c in text]
    mask = np.kron(np.concatenate(glyphs, axis=1)[:, :-1], np.ones((scale, scale))).astype(bool)
    height, width = mask.shape
    top, left = y - height // 2, x - width // 2
    picture[top : top + height, left : left + width][mask] = ink


def write_png(pixels: np.ndarray, path: str) -> None:
    """Write an array of (height, width, 3) bytes as a PNG: no plotting library needed."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    with Path(path).open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)))
        file.write(chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


if __name__ == "__main__":
    data = load_digits()
    train(data.data / 16.0, data.target)
    print("wrote model.joblib and confusion_matrix.png")
