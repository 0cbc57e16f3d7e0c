"use strict";
// Pictures by choosing, dropping, pasting or the camera; all of them end in the one file field of the form.
const form = document.getElementById("recognise");
const field = document.getElementById("pictures");
const zone = document.getElementById("drop");
const previews = document.getElementById("previews");
const complaint = document.getElementById("complaint");
const most = Number(form.dataset.most);
const mostBytes = Number(form.dataset.mostBytes);

function take(files) {
  const wanted = [...files].filter((file) => file.type.startsWith("image/"));
  const kept = new DataTransfer();
  const told = [];
  if (wanted.length < files.length) told.push(form.dataset.noPicture);
  for (const file of wanted.slice(0, most)) {
    if (file.size > mostBytes) told.push(`${file.name}: ${form.dataset.tooLarge}`);
    else kept.items.add(file);
  }
  if (wanted.length > most) told.push(form.dataset.tooMany);
  field.files = kept.files;
  complaint.textContent = told.join(" ");
  for (const old of previews.children) URL.revokeObjectURL(old.src);
  previews.replaceChildren(...[...kept.files].map((file) => {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    return image;
  }));
}

field.addEventListener("change", () => take(field.files));
for (const name of ["dragenter", "dragover"]) {
  zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
zone.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});

const camera = document.getElementById("camera");
const video = camera.querySelector("video");
const shutter = document.getElementById("camera-take");
document.getElementById("camera-open").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    camera.showModal();
  } catch {
    complaint.textContent = form.dataset.noCamera;
  }
});
video.addEventListener("loadeddata", () => (shutter.disabled = false)); // there is something to be taken
camera.addEventListener("close", () => {
  shutter.disabled = true;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
});
shutter.addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    camera.close();
    if (blob) take([new File([blob], "camera.png", { type: "image/png" })]);
  }, "image/png");
});
document.getElementById("camera-close").addEventListener("click", () => camera.close());
