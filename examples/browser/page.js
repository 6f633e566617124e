// Classifies an image with a file that prune-tool exported. What to do to the image first is in the file's metadata.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { readMetadata } from "./metadata.js";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more would take a page that is cross-origin isolated

const $ = (id) => document.getElementById(id);
const say = (text, isError = false) => {
  $("about").textContent = text;
  $("about").classList.toggle("error", isError);
};

async function open() {
  const name = new URLSearchParams(location.search).get("model") ?? "model.onnx";
  const response = await fetch(name);
  if (!response.ok) throw new Error(`There is no ${name} beside this page. Copy the exported model.onnx there.`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const said = readMetadata(bytes);
  if (!said["prune_tool.classes"]) throw new Error(`${name} does not name its classes: it is no file of prune-tool.`);
  const model = {
    session: await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }),
    classes: JSON.parse(said["prune_tool.classes"]),
    inside: said["prune_tool.preprocess"] ?? "normalize",
    recipe: JSON.parse(said["prune_tool.preprocessing"] ?? "{}"),
  };
  const { state, sentence } = JSON.parse(said["prune_tool.certificate"] ?? "{}");
  const verdict = state ? `${state[0].toUpperCase()}${state.slice(1)}: ${sentence}` : "";
  say(`${model.classes.length} classes, ${(bytes.length / 1e6).toFixed(1)} MB. ${verdict}`);
  return model;
}

// A file of --preprocess graph takes the pixels as they are. For the others the browser resizes the shorter side and
// crops the centre; its filter is not exactly Pillow's, so that probabilities differ by a little from `predict`'s.
function draw(bitmap, { inside, recipe }) {
  let [width, height, side] = [bitmap.width, bitmap.height, null];
  if (inside !== "graph") {
    side = recipe.input_size;
    const shorter = Math.floor(side / recipe.crop_pct), least = Math.min(width, height);
    [width, height] = [Math.trunc((shorter * width) / least), Math.trunc((shorter * height) / least)];
  }
  const canvas = $("picture");
  [canvas.width, canvas.height] = side ? [side, side] : [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const left = Math.round((canvas.width - width) / 2), top = Math.round((canvas.height - height) / 2);
  context.drawImage(bitmap, left, top, width, height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function tensor({ data, width, height }, { inside, recipe }) {
  const n = width * height;
  if (inside === "graph") {
    const pixels = new Uint8Array(3 * n);
    for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) pixels[3 * i + c] = data[4 * i + c];
    return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  }
  const planes = new Float32Array(3 * n);
  const [mean, std] = inside === "none" ? [recipe.mean, recipe.std] : [[0, 0, 0], [1, 1, 1]];
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < n; i++) planes[c * n + i] = (data[4 * i + c] / 255 - mean[c]) / std[c];
  return new ort.Tensor("float32", planes, [1, 3, height, width]);
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

async function classify(file, model) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }); // upright, as EXIF says
  const images = tensor(draw(bitmap, model), model);
  const started = performance.now();
  const { logits } = await model.session.run({ images }, ["logits"]);
  const took = performance.now() - started;
  const probabilities = softmax(logits.data);
  const best = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 5);
  $("classes").replaceChildren(...best.map((i) => row(model.classes[i], probabilities[i], logits.data[i])));
  $("answer").hidden = false;
  $("timing").textContent = `${took.toFixed(1)} ms`;
}

function row(name, probability, logit) {
  const item = document.createElement("li"), meter = document.createElement("meter");
  const [label, percent] = [document.createElement("span"), document.createElement("span")];
  [label.textContent, percent.textContent, meter.value] = [name, `${(100 * probability).toFixed(1)} %`, probability];
  Object.assign(item.dataset, { name, probability, logit });
  item.append(label, percent, meter);
  return item;
}

try {
  const model = await open();
  const take = async (file) => {
    try {
      if (file) await classify(file, model);
    } catch (error) {
      $("answer").hidden = true;
      $("timing").textContent = `That image cannot be classified: ${error.message}`;
    }
  };
  $("image").addEventListener("change", (event) => take(event.target.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"])
    $("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  $("image").disabled = false;
} catch (error) {
  say(error.message, true);
}
