const slider = document.getElementById("moment");
if (slider) {
  const frame = document.getElementById("grids"), output = document.getElementById("step");
  const show = () => {
    [...frame.children].forEach((image, i) => { image.hidden = i !== +slider.value; });
    output.textContent = frame.children[slider.value].alt;
  };
  slider.addEventListener("input", show);
  frame.addEventListener("click", () => frame.classList.toggle("full"));
  show();
}
