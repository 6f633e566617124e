"""Classify an image with an exported file, without prune-tool: python onnxruntime_predict.py model.onnx image.jpg."""

import json
import sys

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps

session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = session.get_modelmeta().custom_metadata_map
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
images = np.asarray(image)[None]  # (1, height, width, 3) uint8: all that a file of --preprocess graph wants
if said.get("prune_tool.preprocess", "normalize") == "normalize":  # resize the shorter side, crop the centre
    recipe = json.loads(said["prune_tool.preprocessing"])
    size, shorter = recipe["input_size"], int(recipe["input_size"] / recipe["crop_pct"])
    resized = [int(shorter * side / min(image.size)) for side in image.size]
    image = image.resize(resized, Image.Resampling[recipe["interpolation"].upper()])
    left, top = (round((side - size) / 2) for side in image.size)
    images = np.float32(image.crop((left, top, left + size, top + size)))[None].transpose(0, 3, 1, 2) / 255
[logits] = session.run(["logits"], {"images": images})[0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for i in np.argsort(-logits)[:5]:
    print(f"{probabilities[i]:6.1%} {json.loads(said['prune_tool.classes'])[i]}")
