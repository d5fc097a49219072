// The valence-arousal plane: the cloud of what is searched, the hits by rank, the point asked for.

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 430, 10, 384]; // of the frame, in units of the viewBox
const [LOWEST, HIGHEST] = [0.6, 7.4]; // of the axes: a point on the edge of the scale is seen whole
const RADIUS = 10.5; // of a badge
export const BADGES = 50; // hits that are numbered: more cannot be told apart
const TOGETHER = 7; // badges of one point: one on it and six around it

const across = (valence) => LEFT + ((valence - LOWEST) / (HIGHEST - LOWEST)) * (RIGHT - LEFT);
const up = (arousal) => BOTTOM - ((arousal - LOWEST) / (HIGHEST - LOWEST)) * (BOTTOM - TOP);
const clamped = (value) => Math.min(7, Math.max(1, value));

function element(name, attributes, parent, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

// Draws into `svg`; `onPoint(valence, arousal)` is told where it is clicked, `onHit(rank, chosen)` what is pointed at.
export class Plane {
  constructor(svg, onPoint, onHit) {
    this.svg = svg;
    this.onHit = onHit;
    this.axes();
    this.layers = ["cloud", "hit", "asked"].map((name) => element("g", { id: `${name}-layer` }, svg));
    svg.addEventListener("click", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (point.x < LEFT || point.x > RIGHT || point.y < TOP || point.y > BOTTOM) return;
      const valence = LOWEST + ((point.x - LEFT) / (RIGHT - LEFT)) * (HIGHEST - LOWEST);
      const arousal = LOWEST + ((BOTTOM - point.y) / (BOTTOM - TOP)) * (HIGHEST - LOWEST);
      onPoint(clamped(valence), clamped(arousal));
    });
  }

  axes() {
    const frame = { x: LEFT, y: TOP, width: RIGHT - LEFT, height: BOTTOM - TOP, class: "frame" };
    element("rect", frame, this.svg);
    for (let value = 1; value <= 7; value += 1) {
      element("line", { x1: across(value), x2: across(value), y1: TOP, y2: BOTTOM, class: "grid" }, this.svg);
      element("line", { x1: LEFT, x2: RIGHT, y1: up(value), y2: up(value), class: "grid" }, this.svg);
      element("text", { x: across(value), y: BOTTOM + 16, "text-anchor": "middle" }, this.svg, value);
      element("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" }, this.svg, value);
    }
    const [middle, height] = [(LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2];
    const below = { x: middle, y: BOTTOM + 35, "text-anchor": "middle" };
    element("text", below, this.svg, "valence (1 negative – 7 positive)");
    const turned = { x: 14, y: height, "text-anchor": "middle", transform: `rotate(-90 14 ${height})` };
    element("text", turned, this.svg, "arousal (1 calm – 7 active)");
  }

  // [valence, arousal, count] of each point
  cloud(points) {
    this.layers[0].replaceChildren();
    for (const [valence, arousal, count] of points) {
      const r = Math.min(9, 2 + Math.log2(count));
      element("circle", { cx: across(valence), cy: up(arousal), r, class: "cloud" }, this.layers[0]);
    }
  }

  asked(point) {
    this.layers[2].replaceChildren();
    this.at = point && [across(point.valence), up(point.arousal)];
    if (!point) return;
    const square = { x: this.at[0] - 7, y: this.at[1] - 7, width: 14, height: 14 };
    element("rect", { ...square, class: "halo" }, this.layers[2]);
    element("rect", { ...square, class: "asked", id: "asked" }, this.layers[2]);
  }

  // Dots where the hits are; beside each, the numbers of those that lie there.
  hits(hits) {
    const layer = this.layers[1];
    layer.replaceChildren();
    const shown = hits.map((hit, place) => ({ ...hit, rank: place + 1 })).filter((hit) => on(hit));
    const placed = this.at ? [this.at] : [];
    this.badges = numbered(shown).map((badge) => {
      const at = [across(badge.first.valence), up(badge.first.arousal)];
      const place = free(at, placed);
      placed.push(place);
      return { ...badge, at, place };
    });
    for (const { at: [x1, y1], place: [x2, y2] } of this.badges) {
      element("line", { x1, y1, x2, y2, class: "leader" }, layer);
    }
    for (const { valence, arousal } of shown) {
      element("circle", { cx: across(valence), cy: up(arousal), r: 3.5, class: "dot" }, layer);
    }
    for (const badge of this.badges) badge.link = this.link(badge, layer);
  }

  link({ first, ranks, text, place: [x, y] }, layer) {
    const name = ranks.length > 1 ? `Hits ${ranks.join(", ")}` : `Hit ${first.rank}, ${first.id}`;
    const link = element("a", { href: `#hit-${first.rank}`, class: "badge", "aria-label": name }, layer);
    element("title", {}, link, name);
    element("circle", { cx: x, cy: y, r: RADIUS }, link);
    element("text", { x, y, class: String(text).length > 2 ? "long" : "" }, link, text);
    for (const kind of ["mouseenter", "focus"]) link.addEventListener(kind, () => this.onHit(first.rank, false));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.onHit(first.rank, true);
    });
    return link;
  }

  light(rank) {
    for (const { link, ranks } of this.badges ?? []) link.classList.toggle("lit", ranks.includes(rank));
  }
}

// What stands on each badge: a hit's rank, and where a point has more hits than fit around it, how many more.
function numbered(hits) {
  const points = new Map();
  for (const hit of hits.slice(0, BADGES)) {
    const point = `${hit.valence} ${hit.arousal}`;
    points.set(point, [...(points.get(point) ?? []), hit]);
  }
  return [...points.values()].flatMap((here) => {
    const alone = here.length <= TOGETHER ? here : here.slice(0, TOGETHER - 1);
    const rest = here.slice(alone.length);
    const badges = alone.map((hit) => ({ first: hit, ranks: [hit.rank], text: hit.rank }));
    if (rest.length) badges.push({ first: rest[0], ranks: rest.map((hit) => hit.rank), text: `+${rest.length}` });
    return badges;
  });
}

export const on = (hit) => hit.valence !== null && hit.arousal !== null;

// The place nearest to `at`, on a spiral around it, where a badge covers no other and stays in the frame.
function free(at, placed) {
  for (let step = 0; ; step += 1) {
    const [turn, far] = [step * 0.7, step ? 2 * RADIUS + step * 0.9 : 0];
    const place = step ? [at[0] + far * Math.cos(turn), at[1] - far * Math.sin(turn)] : at;
    const inside = place[0] > LEFT + RADIUS && place[0] < RIGHT && place[1] > TOP && place[1] < BOTTOM - RADIUS;
    const alone = placed.every(([x, y]) => Math.hypot(x - place[0], y - place[1]) >= 2 * RADIUS + 1);
    if ((inside && alone) || step > 2000) return place;
  }
}
