"""The formulas in NumPy, without the code under test."""
import numpy as np


def numpy_ece(confidence, correct, number=20):
    """The formula of Guo et al., bin by bin."""
    total = 0
    for low in range(number):
        inside = (confidence >= low / number) & (confidence < (low + 1) / number)
        if low == number - 1:
            inside |= confidence == 1
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def numpy_iou(first, second):
    """Overlap of two boxes."""
    width, height = (min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return both / (sum(areas) - both)


def numpy_matches(boxes, labels, scores, true_boxes, true_labels, threshold):
    """Which detections are right: the best score first, each takes one box of its class."""
    correct, free = np.zeros(len(boxes), bool), set(range(len(true_boxes)))
    for i in np.argsort(-scores, kind='stable'):
        overlaps = {j: numpy_iou(boxes[i], true_boxes[j]) for j in sorted(free)
                    if labels[i] == true_labels[j]}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= threshold:
            correct[i] = True
            free.remove(best)
    return correct
