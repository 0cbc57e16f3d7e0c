"use strict";
// Sends the pictures of a chosen folder one by one; the folder a picture lies in is its class.
const form = document.getElementById("upload");
const bar = document.getElementById("upload-progress");
const told = document.getElementById("upload-told");
const wrong = document.getElementById("upload-wrong");

async function send(file, label) {
  const body = new FormData();
  body.append("csrfmiddlewaretoken", form.querySelector("[name=csrfmiddlewaretoken]").value);
  body.append("label", label);
  body.append("picture", file);
  const answer = await fetch(form.action, { method: "POST", body });
  if (answer.status === 201) return "";
  if (answer.headers.get("content-type")?.startsWith("application/json")) {
    const problem = await answer.json();
    return problem.error ?? problem.detail;
  }
  return `HTTP ${answer.status}`;
}

async function upload(files, labelOf) {
  const pictures = files.filter((file) => /\.(png|jpe?g|webp)$/i.test(file.name));
  const complaints = [];
  let kept = 0;
  bar.hidden = false;
  bar.max = pictures.length;
  wrong.replaceChildren();
  for (const [number, file] of pictures.entries()) {
    const problem = file.size > Number(form.dataset.mostBytes) ? form.dataset.tooLarge : await send(file, labelOf(file));
    if (problem) {
      complaints.push(`${file.name}: ${problem}`);
      const line = document.createElement("li");
      line.textContent = complaints.at(-1);
      if (complaints.length <= 20) wrong.append(line);
    } else kept += 1;
    bar.value = number + 1;
    told.textContent = `${kept} / ${pictures.length}`;
  }
  if (!pictures.length) told.textContent = form.dataset.nothing;
  else if (!complaints.length) location.reload();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    const folder = [...form.querySelector("#folder").files];
    const single = [...form.querySelector("#files").files];
    const label = form.querySelector("#label").value;
    if (folder.length) await upload(folder, (file) => file.webkitRelativePath.split("/").at(-2));
    else await upload(single, () => label);
  } finally {
    button.disabled = false;
  }
});
