"use strict";
// Curves of the page: the values under the pointer, and zoom by wheel, dragging and double click. Without it the page
// has the same pictures. `data-wide` and `data-narrow` hold what recipe/report/hover.py says of a picture's axes.
const number = (value) => Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? +value.toPrecision(4) : value.toExponential(2);

for (const frame of document.querySelectorAll(".zoom")) {
  const image = frame.querySelector("img"), note = frame.querySelector("output");
  let scale = 1, left = 0, top = 0, dragged = null;

  const place = () => {
    const box = frame.getBoundingClientRect();
    left = Math.min(0, Math.max(left, box.width * (1 - scale)));
    top = Math.min(0, Math.max(top, box.height * (1 - scale)));
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    frame.classList.toggle("zoomed", scale > 1);
  };
  const axes = () => JSON.parse(frame.dataset[matchMedia("(max-width: 46rem)").matches ? "narrow" : "wide"]);

  frame.addEventListener("pointermove", (event) => {
    if (dragged) {
      left = dragged.left + event.clientX - dragged.x;
      top = dragged.top + event.clientY - dragged.y;
      place();
      return;
    }
    const box = image.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    const axis = axes().find(({box: [l, t, r, b]}) => l <= x && x <= r && t <= y && y <= b);
    note.hidden = !axis;
    if (!axis) return;
    const [l, , r] = axis.box, share = (x - l) / (r - l), [low, high] = axis.x;
    const at = axis.log ? low * (high / low) ** share : low + (high - low) * share;
    const distance = (point) => axis.log ? Math.abs(Math.log(point[0] / at)) : Math.abs(point[0] - at);
    const lines = Object.entries(axis.lines).map(([name, points]) => {
      const [step, value] = points.reduce((best, point) => distance(point) < distance(best) ? point : best);
      return `${name}: ${number(value)} at step ${step.toLocaleString("en")}`;
    });
    note.textContent = lines.join("\n");
    const outer = frame.getBoundingClientRect();
    note.style.left = `${Math.min(event.clientX - outer.left + 12, outer.width - note.offsetWidth - 4)}px`;
    note.style.top = `${Math.max(4, event.clientY - outer.top - note.offsetHeight - 12)}px`;
  });
  frame.addEventListener("pointerleave", () => { note.hidden = true; dragged = null; });
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && scale === 1 && !frame.matches(":focus")) return; // the page scrolls
    event.preventDefault();
    const outer = frame.getBoundingClientRect(), x = event.clientX - outer.left, y = event.clientY - outer.top;
    const next = Math.min(12, Math.max(1, scale * 1.2 ** -Math.sign(event.deltaY)));
    left = x - (x - left) * next / scale;
    top = y - (y - top) * next / scale;
    scale = next;
    place();
  }, {passive: false});
  frame.addEventListener("pointerdown", (event) => {
    frame.focus({preventScroll: true});
    if (scale > 1) { dragged = {x: event.clientX, y: event.clientY, left, top}; event.preventDefault(); }
  });
  frame.addEventListener("pointerup", () => { dragged = null; });
  frame.addEventListener("dblclick", () => { scale = scale > 1 ? 1 : 2.5; if (scale === 1) left = top = 0; place(); });
  frame.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { scale = 1; left = top = 0; place(); }
  });
}
