"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

for (const table of all("table.sortable")) {
  const heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const text = column === 0, before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : text;
    const value = row => text ? row.cells[0].textContent.trim()
      : Number.isNaN(Number(row.cells[column].dataset.value)) ? -Infinity : Number(row.cells[column].dataset.value);
    const order = (a, b) => text ? value(a).localeCompare(value(b)) : value(a) - value(b) || 0;
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
  const field = document.getElementById(table.dataset.filter), count = document.getElementById(table.dataset.count);
  field?.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/[,\s]+/).filter(Boolean);
    for (const row of body.rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = wanted.length > 0 && !wanted.some(part => name.includes(part));
    }
    const shown = [...body.rows].filter(row => !row.hidden).length;
    count.textContent = shown === body.rows.length ? `${shown} classes` : `${shown} of ${body.rows.length} classes`;
  });
}

// Charts: the epoch that is pointed at.
for (const figure of all(".chart")) {
  const svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor");
  const epochs = JSON.parse(svg.dataset.epochs), outputs = all("output", figure);
  const show = near => {
    cursor.setAttribute("d", near ? `M${near[0]} 10V182` : "");
    figure.querySelector("figcaption").dataset.epoch = near ? near[1] : "";
    for (const output of outputs) {
      const value = near && JSON.parse(output.dataset.values)[near[1]];
      output.textContent = !near ? output.dataset.end : value === undefined ? "–" : value.toFixed(3);
    }
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * 480 / box.width;
    show(epochs.reduce((a, b) => Math.abs(a[0] - x) <= Math.abs(b[0] - x) ? a : b));
  });
  svg.addEventListener("pointerleave", () => show(null));
}

// Labels of a picture, read from the grey values of its map.
const maps = new Map();
function labelsOf(address) {
  if (!maps.has(address)) {
    const image = new Image();
    image.src = address;
    maps.set(address, image.decode().then(() => {
      const canvas = document.createElement("canvas");
      canvas.width = image.width;
      canvas.height = image.height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, image.width, image.height).data;
      return { width: image.width, height: image.height, at: index => pixels[4 * index] };
    }));
  }
  return maps.get(address);
}

// One class alone, the rest of the picture darkened.
const chips = all(".chip");
async function alone(stack, chip) {
  stack.querySelector("canvas")?.remove();
  stack.classList.toggle("alone", Boolean(chip));
  if (!chip) return;
  const labels = await labelsOf(stack.dataset.map), canvas = document.createElement("canvas");
  const [r, g, b] = chip.querySelector(".swatch").style.getPropertyValue("--c").match(/\w\w/g).map(part => parseInt(part, 16));
  canvas.width = labels.width;
  canvas.height = labels.height;
  const context = canvas.getContext("2d"), picture = context.createImageData(labels.width, labels.height);
  for (let index = 0; index < labels.width * labels.height; index++) {
    const here = labels.at(index) === Number(chip.dataset.label);
    picture.data.set(here ? [r, g, b, 190] : [10, 13, 18, 165], 4 * index);
  }
  context.putImageData(picture, 0, 0);
  if (chip.getAttribute("aria-pressed") === "true") stack.append(canvas);
}
for (const chip of chips) chip.addEventListener("click", () => {
  const on = chip.getAttribute("aria-pressed") !== "true";
  chips.forEach(other => other.setAttribute("aria-pressed", String(on && other === chip)));
  const section = chip.closest("section");
  for (const stack of all(".stack[data-map]", section)) alone(stack, on ? chip : null);
});

// The viewer: one picture large, with what lies under the pointer.
const viewer = document.querySelector(".viewer"), opens = all(".open");
const names = Object.assign(JSON.parse(viewer.dataset.names), { 255: "ignored" });
let current = 0, kind = 0;
function show() {
  const open = opens[current], example = open.closest(".example"), tiles = all(".tile", open);
  kind = Math.min(kind, tiles.length - 1);
  viewer.querySelector("strong").textContent = example.querySelector(".says").innerText.replace(/\s+/g, " ");
  viewer.style.setProperty("--photo", example.style.getPropertyValue("--photo"));
  viewer.querySelector(".views").replaceChildren(...tiles.map((tile, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = tile.querySelector(".kind").textContent;
    button.setAttribute("aria-pressed", String(place === kind));
    button.addEventListener("click", () => { kind = place; show(); viewer.querySelectorAll(".views button")[kind].focus(); });
    return button;
  }));
  const big = tiles[kind].querySelector(".stack").cloneNode(true);
  big.classList.remove("alone");
  big.querySelector("canvas")?.remove();
  const [wide, high] = big.style.aspectRatio.split("/").map(Number);
  big.style.width = `min(100%, ${66 * wide / high}vh)`;
  viewer.querySelector(".big").replaceChildren(big);
  const layers = tiles.filter(tile => tile.querySelector("[data-map]"));
  big.addEventListener("pointermove", event => read(event, big, layers));
  big.addEventListener("pointerdown", event => read(event, big, layers));
  viewer.querySelector(".reading").textContent = layers.length ? "Point at the picture to read its classes." : "";
}
async function read(event, big, layers) {
  const box = big.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  const words = await Promise.all(layers.map(async tile => {
    const labels = await labelsOf(tile.querySelector("[data-map]").dataset.map);
    const column = Math.min(labels.width - 1, Math.max(0, Math.floor(x * labels.width)));
    const row = Math.min(labels.height - 1, Math.max(0, Math.floor(y * labels.height)));
    const label = labels.at(row * labels.width + column);
    return `${tile.querySelector(".kind").textContent}: ${names[label] ?? `label ${label}`}`;
  }));
  viewer.querySelector(".reading").textContent = words.join(" · ");
}
function step(by) {
  current = (current + by + opens.length) % opens.length;
  show();
}
opens.forEach((open, place) => open.addEventListener("click", event => {
  const tile = event.target.closest(".tile");
  current = place;
  kind = tile ? all(".tile", open).indexOf(tile) : 0;
  show();
  viewer.showModal();
}));
for (const button of all("[data-step]", viewer)) button.addEventListener("click", () => step(Number(button.dataset.step)));
viewer.addEventListener("keydown", event => {
  const tiles = all(".tile", opens[current]).length;
  if (event.key === "ArrowUp" || event.key === "ArrowDown") step(event.key === "ArrowUp" ? -1 : 1);
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    kind = (kind + (event.key === "ArrowLeft" ? tiles - 1 : 1)) % tiles;
    show();
  } else return;
  event.preventDefault();
});
viewer.addEventListener("click", event => { if (event.target === viewer) viewer.close(); });

for (const button of all(".copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}
