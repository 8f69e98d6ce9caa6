// What stands in the window, as one SVG: boxes, texts, plots and marks from where the browser put them. No text of the
// page becomes markup; nothing in the drawing refers to anything outside it.
//
// Drawn are backgrounds, borders, outlines and shadows, each line of text with its width, pictures that are SVG
// already, fractions and roots, list marks, boxes to tick and bars of progress; not images, selections or scrollbars.

([name]) => {
  const WIDE = innerWidth, HIGH = innerHeight;
  // First the fonts that it is drawn with, then what is about as wide; every line keeps its width with any font.
  const SANS = `"DejaVu Sans",Verdana,system-ui,sans-serif`;
  const MONO = `"DejaVu Sans Mono",Menlo,Consolas,monospace`;
  const MATH = `"DejaVu Math TeX Gyre","Latin Modern Math","STIX Two Math","Cambria Math",math,serif`;
  const FAMILIES = { s: SANS, m: MONO, f: MATH };
  const classes = new Map();
  const definitions = new Map();
  const canvas = document.createElement("canvas").getContext("2d");

  // ── words and numbers ──────────────────────────────────────────────────────────────────────────────────────────

  const number = (value) => String(Math.round(value * 10) / 10).replace(/^(-?)0\./, "$1.").replace(/^-0$/, "0");
  const escaped = (text) => text.replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`);
  const attributes = (given) =>
    Object.entries(given)
      .filter(([, value]) => value !== undefined && value !== "")
      .map(([key, value]) => ` ${key}="${typeof value === "number" ? number(value) : escaped(String(value))}"`)
      .join("");
  const element = (kind, given, inner = "") => `<${kind}${attributes(given)}${inner ? `>${inner}</${kind}>` : "/>"}`;

  // A colour as SVG says it, and its opacity; null where nothing of it is seen.
  function colour(said) {
    const found = /^rgba?\(([\d.]+),? ([\d.]+),? ([\d.]+)(?:[,/ ]+([\d.]+))?\)$/.exec(said);
    if (!found) return null;
    const opacity = found[4] === undefined ? 1 : Number(found[4]);
    if (!opacity) return null;
    const hex = found.slice(1, 4).map((one) => Math.round(Number(one)).toString(16).padStart(2, "0")).join("");
    return { hex: `#${hex.replace(/^(.)\1(.)\2(.)\3$/, "$1$2$3")}`, opacity };
  }

  const painted = (kind, said) => {
    const found = colour(said);
    return found ? { [kind]: found.hex, [`${kind}-opacity`]: found.opacity < 1 ? found.opacity.toFixed(2) : "" } : { [kind]: "none" };
  };

  function defined(prefix, made) {
    if (!definitions.has(made)) definitions.set(made, `${prefix}${definitions.size}`);
    return definitions.get(made);
  }

  // The class of one style of text, so that it is written once.
  function styled(rules) {
    if (!classes.has(rules)) classes.set(rules, `c${classes.size}`);
    return classes.get(rules);
  }

  // ── what cuts ──────────────────────────────────────────────────────────────────────────────────────────────────

  const within = (one, other) => ({
    left: Math.max(one.left, other.left), top: Math.max(one.top, other.top),
    right: Math.min(one.right, other.right), bottom: Math.min(one.bottom, other.bottom),
  });
  const outside = (box, clip) =>
    box.right <= clip.left || box.left >= clip.right || box.bottom <= clip.top || box.top >= clip.bottom;

  // The attribute that cuts a box to where it may be seen; none is needed where all of it may.
  function cut(box, clip) {
    const over = box.left < clip.left - 0.5 || box.top < clip.top - 0.5 || box.right > clip.right + 0.5 || box.bottom > clip.bottom + 0.5;
    if (!over) return {};
    const hole = { x: clip.left, y: clip.top, width: clip.right - clip.left, height: clip.bottom - clip.top };
    return { "clip-path": `url(#${defined("k", `<clipPath id="@">${element("rect", hole)}</clipPath>`)})` };
  }

  // ── boxes ──────────────────────────────────────────────────────────────────────────────────────────────────────

  // Boxes stand on whole pixels, as the browser paints them; texts do not.
  const plain = ({ left, top, right, bottom }) => ({ left, top, right, bottom });
  const snapped = (box) => ({ left: Math.round(box.left), top: Math.round(box.top), right: Math.round(box.right), bottom: Math.round(box.bottom) });
  const grown = (box, by) => ({ left: box.left - by, top: box.top - by, right: box.right + by, bottom: box.bottom + by });

  function rectangle(box, radius, clip, given) {
    const [wide, high] = [box.right - box.left, box.bottom - box.top];
    if (wide <= 0 || high <= 0 || outside(box, clip)) return "";
    const round = Math.min(radius, wide / 2, high / 2);
    return element("rect", { x: box.left, y: box.top, width: wide, height: high, rx: round > 0.4 ? round : "", ...given, ...cut(box, clip) });
  }

  function boxes(node, style, at, clip) {
    const box = snapped(at);
    const radius = parseFloat(style.borderTopLeftRadius) * (style.borderTopLeftRadius.endsWith("%") ? (box.right - box.left) / 100 : 1) || 0;
    const drawn = [shadow(style, box, radius, clip)];
    const back = colour(style.backgroundColor);
    const sides = ["Top", "Right", "Bottom", "Left"].map((side) => ({
      width: style[`border${side}Style`] === "none" ? 0 : parseFloat(style[`border${side}Width`]),
      kind: style[`border${side}Style`], colour: style[`border${side}Color`],
    }));
    const alike = sides.every((side) => side.width === sides[0].width && side.colour === sides[0].colour);
    const dashes = (side) => (side.kind === "dashed" ? `${3 * side.width} ${2 * side.width}` : "");
    const line = sides[0].width && colour(sides[0].colour) && sides[0];
    const shared = style.display === "table-cell" && style.borderCollapse === "collapse";
    const bevelled = style.borderTopLeftRadius !== style.borderBottomLeftRadius || style.borderTopLeftRadius !== style.borderTopRightRadius;
    if (shared) {
      if (back) drawn.push(rectangle(box, 0, clip, painted("fill", style.backgroundColor)));
      if (alike && line) {
        const at = { left: Math.floor(box.left) + 0.5, top: Math.floor(box.top) + 0.5, right: Math.floor(box.right) + 0.5, bottom: Math.floor(box.bottom) + 0.5 };
        drawn.push(rectangle(at, 0, clip, { fill: "none", ...painted("stroke", line.colour) }));
      } else drawn.push(strokes(sides, box, clip));
    } else if (alike && line && !bevelled) {
      const fill = back ? painted("fill", style.backgroundColor) : { fill: "none" };
      const stroke = { ...painted("stroke", line.colour), "stroke-width": line.width === 1 ? "" : line.width, "stroke-dasharray": dashes(line) };
      drawn.push(rectangle(grown(box, -line.width / 2), Math.max(radius - line.width / 2, 0), clip, { ...fill, ...stroke }));
    } else {
      // Corners that differ are those of a box whose other end lies flat against its neighbour of one colour.
      if (back) drawn.push(rectangle(box, bevelled ? 0 : radius, clip, painted("fill", style.backgroundColor)));
      drawn.push(strokes(sides, box, clip));
    }
    drawn.push(pressed(style, box, radius, line?.width ?? 0, clip));
    const ring = style.outlineStyle !== "none" ? parseFloat(style.outlineWidth) : 0;
    if (ring) {
      const away = parseFloat(style.outlineOffset) + ring / 2;
      drawn.push(rectangle(grown(box, away), radius ? radius + away : 0, clip, { fill: "none", ...painted("stroke", style.outlineColor), "stroke-width": ring }));
    }
    return drawn.join("");
  }

  function strokes([top, right, bottom, left], box, clip) {
    const edge = (side, at) => (side.width && colour(side.colour) ? rectangle(at, 0, clip, painted("fill", side.colour)) : "");
    return [
      edge(top, { ...box, bottom: box.top + top.width }), edge(bottom, { ...box, top: box.bottom - bottom.width }),
      edge(left, { ...box, right: box.left + left.width }), edge(right, { ...box, left: box.right - right.width }),
    ].join("");
  }

  const SHADOW = /^(rgba?\([^)]*\)) (-?[\d.]+)px (-?[\d.]+)px ([\d.]+)px (-?[\d.]+)px( inset)?$/;

  function shadow(style, box, radius, clip) {
    const found = SHADOW.exec(style.boxShadow);
    const seen = found && !found[6] && colour(found[1]);
    if (!seen) return "";
    const [x, y, blur] = found.slice(2, 5).map(Number);
    const filter = element("feGaussianBlur", { stdDeviation: blur / 2 });
    const id = defined("k", `<filter id="@">${filter}</filter>`);
    const at = { left: box.left + x, top: box.top + y, right: box.right + x, bottom: box.bottom + y };
    return rectangle(at, radius, clip, { ...painted("fill", found[1]), filter: `url(#${id})` });
  }

  // A shadow inside, without blur: the line at the foot of a button that is pressed.
  function pressed(style, box, radius, border, clip) {
    const found = SHADOW.exec(style.boxShadow);
    if (!found?.[6] || outside(box, clip)) return "";
    const inner = grown(box, -border), foot = -Number(found[3]), round = Math.max(radius - border, 0);
    const hole = element("rect", { x: inner.left, y: inner.top, width: inner.right - inner.left, height: inner.bottom - inner.top, rx: round });
    const id = defined("k", `<clipPath id="@">${hole}</clipPath>`);
    const [left, right, low] = [inner.left, inner.right, inner.bottom];
    // The foot follows the corners: what is left of the box when it is moved up.
    const path = `M${number(left)} ${number(low - foot - round)}a${number(round)} ${number(round)} 0 0 0 ${number(round)} ${number(round)}H${number(right - round)}` +
      `a${number(round)} ${number(round)} 0 0 0 ${number(round)} ${number(-round)}V${number(low)}H${number(left)}z`;
    return element("path", { d: path, ...painted("fill", found[1]), "clip-path": `url(#${id})` });
  }

  // ── texts ──────────────────────────────────────────────────────────────────────────────────────────────────────

  const family = (style) => (style.fontFamily.includes("mono") ? "m" : /math/i.test(style.fontFamily) ? "f" : "s");

  function font(style) {
    const weight = style.fontWeight === "400" ? "" : `${style.fontWeight} `;
    return `${style.fontStyle === "italic" ? "italic " : ""}${weight}${number(parseFloat(style.fontSize))}px `;
  }

  function measured(style, text = "x", size = style.fontSize) {
    canvas.font = `${style.fontStyle} ${style.fontWeight} ${size} ${style.fontFamily}`;
    return canvas.measureText(text);
  }

  // How far a sign's ink reaches above its line and below, in pixels: measured large, since it is told in whole ones.
  function ink(style, sign) {
    const large = measured(style, sign, "1000px"), scale = parseFloat(style.fontSize) / 1000;
    return { above: large.actualBoundingBoxAscent * scale, below: large.actualBoundingBoxDescent * scale };
  }

  function lettered(style, decoration) {
    const inked = painted("fill", style.color);
    const lines = decoration ? `;text-decoration:${decoration} 1px` : "";
    return styled(`font:${font(style)}var(--${family(style)});fill:${inked.fill}${lines}`.replace(/var\(--(.)\)/, (_, one) => FAMILIES[one]));
  }

  // MathML writes a lone letter in italics, which are letters of their own.
  function slanted(text) {
    const one = text.codePointAt(0);
    if (text === "h") return "ℎ";
    if (one >= 97 && one <= 122 && text.length === 1) return String.fromCodePoint(0x1d44e + one - 97);
    if (one >= 65 && one <= 90 && text.length === 1) return String.fromCodePoint(0x1d434 + one - 65);
    if (one >= 0x3b1 && one <= 0x3c9 && text.length === 1) return String.fromCodePoint(0x1d6fc + one - 0x3b1);
    return text;
  }

  function changed(text, style, parent) {
    if (parent.localName === "mi" && parent.textContent.trim().length === 1 && style.textTransform === "math-auto") return slanted(text.trim());
    return style.textTransform === "uppercase" ? text.toUpperCase() : text;
  }

  // Runs of a text node: what stands in one line without a gap, and where.
  function runs(node) {
    const range = document.createRange(), found = [];
    let run = null;
    const text = node.data;
    for (let at = 0; at < text.length; ) {
      const sign = String.fromCodePoint(text.codePointAt(at));
      range.setStart(node, at);
      range.setEnd(node, at + sign.length);
      at += sign.length;
      const box = [...range.getClientRects()].find((one) => one.width > 0);
      if (!box) {
        if (/\n/.test(sign)) run = null;
        continue;
      }
      const blank = /\s/.test(sign);
      if (run && (Math.abs(run.top - box.top) > 2 || Math.abs(run.end - box.left) > 1 || (blank && run.blank))) run = null;
      if (run && !blank) Object.assign(run, { text: run.text + (run.blank ? " " : "") + sign, right: box.right, end: box.right, blank: false });
      else if (run) Object.assign(run, { end: box.right, blank: true });
      else if (!blank) found.push((run = { text: sign, left: box.left, right: box.right, end: box.right, top: box.top, bottom: box.bottom, blank: false }));
    }
    return found;
  }

  function letters(node, style, clip, decoration) {
    const parent = node.parentElement;
    if (!colour(style.color) || parseFloat(style.fontSize) === 0) return "";
    const ascent = measured(style).fontBoundingBoxAscent;
    return runs(node)
      .map((run) => {
        if (outside(run, clip)) return "";
        const said = changed(run.text, style, parent);
        const given = { x: run.left, y: Math.round(run.top + ascent), textLength: said.length > 1 ? run.right - run.left : "", class: lettered(style, decoration) };
        const drawn = parent.getBoundingClientRect();
        // A bracket grows with what it holds.
        if (parent.getAttribute("stretchy") !== "false" && "(){}[]|⌈⌉⌊⌋⟨⟩‖".includes(said)) {
          const { above, below } = ink(style, said);
          const taller = drawn.height / (above + below), wider = drawn.width / (run.right - run.left);
          const grow = `matrix(${wider.toFixed(3)} 0 0 ${taller.toFixed(3)} ${number(drawn.left)} ${number(drawn.top)})`;
          if (parent.localName === "mo" && taller > 1.15) Object.assign(given, { x: "", y: above, transform: grow });
        }
        return element("text", { ...given, ...cut(run, clip) }, escaped(said));
      })
      .join("");
  }

  // ── what is neither box nor text ───────────────────────────────────────────────────────────────────────────────

  function listMark(node, style, box, clip) {
    const kind = style.listStyleType;
    const ascent = Math.round(measured(style).fontBoundingBoxAscent);
    const first = document.createRange();
    first.selectNodeContents(node);
    const line = [...first.getClientRects()].find((one) => one.width > 0 && one.height > 0);
    if (!line || kind === "none") return "";
    const baseline = line.top + ascent;
    if (kind === "disclosure-open" || kind === "disclosure-closed") {
      const left = box.left + parseFloat(style.paddingLeft), size = ascent * 0.7;
      const [x, y] = [left, baseline - size];
      const d = kind === "disclosure-open"
        ? `M${number(x)} ${number(y + 0.2)}h${number(size)}l${number(-size / 2)} ${number(size * 0.86)}z`
        : `M${number(x)} ${number(y)}v${number(size)}l${number(size * 0.86)} ${number(-size / 2)}z`;
      return outside(line, clip) ? "" : element("path", { d, ...painted("fill", style.color) });
    }
    if (kind === "disc") {
      const size = Math.floor((Math.floor((ascent * 2) / 3) + 1) / 2);
      const at = { cx: box.left - Math.floor((ascent * 2) / 3) - size / 2, cy: baseline - ascent + (3 * (ascent - Math.floor((ascent * 2) / 3))) / 2 + size / 2, r: size / 2 };
      return outside(line, clip) ? "" : element("circle", { ...at, ...painted("fill", style.color), ...cut(line, clip) });
    }
    const place = [...node.parentElement.children].indexOf(node) + (node.parentElement.start || 1);
    const said = `${place}.`;
    const wide = measured(style, said).width;
    const mark = { left: box.left - measured(style, `${said} `).width, right: box.left, top: line.top, bottom: line.bottom };
    if (outside(mark, clip)) return "";
    return element("text", { x: mark.left, y: baseline, textLength: wide, class: lettered(style, ""), ...cut(mark, clip) }, said);
  }

  function ticked(node, style, at, clip) {
    const box = snapped(at);
    const filled = node.checked ? style.accentColor : style.backgroundColor;
    const round = node.type === "radio" ? 99 : 2.5;
    const mark = node.checked ? element("path", { d: `M${number(box.left + 4)} ${number(box.top + 10)}l4.2 4.2 7.6-9.6`, fill: "none", stroke: "#fff", "stroke-width": 3 }) : "";
    const edge = node.checked ? style.accentColor : getComputedStyle(document.documentElement).colorScheme.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(133, 133, 133)" : "rgb(118, 118, 118)";
    const inside = node.checked ? painted("fill", filled) : matchMedia("(prefers-color-scheme: dark)").matches ? { fill: "#3b3b3b" } : { fill: "#fff" };
    return rectangle(grown(box, -0.5), round, clip, { ...inside, ...painted("stroke", edge) }) + mark;
  }

  function bar(node, style, at, clip) {
    const box = snapped(at);
    const full = getComputedStyle(document.documentElement).getPropertyValue("--good").trim();
    const radius = (box.bottom - box.top) / 2;
    const share = { ...box, right: box.left + (box.right - box.left) * node.position };
    const hole = element("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, rx: radius });
    const id = defined("k", `<clipPath id="@">${hole}</clipPath>`);
    return rectangle(box, radius, clip, painted("fill", style.backgroundColor)) +
      rectangle(share, 0, clip, { fill: full, "clip-path": `url(#${id})` });
  }

  // The line of a fraction, between what stands above and below it.
  function fraction(node, style, box) {
    const [above, below] = [...node.children].map((one) => one.getBoundingClientRect());
    const y = Math.floor((above.bottom + below.top) / 2) + 0.5;
    const thick = Math.max(1, parseFloat(style.fontSize) / 18);
    return element("path", { d: `M${number(box.left + 1)} ${number(y)}H${number(box.right - 1)}`, ...painted("stroke", style.color), "stroke-width": thick });
  }

  function root(node, style, box) {
    const inner = node.firstElementChild.getBoundingClientRect();
    const [x, top, low] = [inner.left, box.top + 1, box.bottom - 1];
    const hook = Math.min(x - box.left, 9);
    const d = `M${number(x - hook)} ${number(low - 5)}l${number(hook * 0.25)} -1 ${number(hook * 0.35)} ${number(6)}L${number(x)} ${number(top)}H${number(box.right)}`;
    return element("path", { d, fill: "none", ...painted("stroke", style.color) });
  }

  // A plot of ours: its shapes with their colours as they are computed.
  function plot(node, clip) {
    const box = node.getBoundingClientRect();
    if (outside(box, clip)) return "";
    const scale = node.getScreenCTM();
    const shapes = [...node.querySelectorAll("line, rect, circle, path, text")].map((one) => {
      const style = getComputedStyle(one), given = {};
      if (one.localName === "text") {
        const halo = colour(style.stroke) ? `;paint-order:stroke;stroke:${colour(style.stroke).hex};stroke-width:${style.strokeWidth};stroke-linejoin:round` : "";
        given.class = styled(`font:${font(style)}${FAMILIES[family(style)]};fill:${colour(style.fill).hex}${halo}`);
        given["text-anchor"] = style.textAnchor === "start" ? "" : style.textAnchor;
        if (one.textContent.length > 1) given.textLength = one.getComputedTextLength();
      } else {
        if (one.localName !== "line") Object.assign(given, painted("fill", style.fill));
        if (colour(style.stroke)) Object.assign(given, painted("stroke", style.stroke), { "stroke-width": parseFloat(style.strokeWidth) });
      }
      for (const key of ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "d"])
        if (one.hasAttribute(key)) given[key] = key === "d" ? one.getAttribute(key) : Number(one.getAttribute(key));
      return element(one.localName, given, one.localName === "text" ? escaped(one.textContent) : "");
    });
    const place = `translate(${scale.e.toFixed(2)} ${scale.f.toFixed(2)})${Math.abs(scale.a - 1) > 0.001 ? ` scale(${scale.a.toFixed(4)})` : ""}`;
    const whole = element("g", { transform: place }, shapes.join(""));
    const edge = cut(box, clip);
    return edge["clip-path"] ? element("g", edge, whole) : whole;
  }

  // ── the page, from back to front ───────────────────────────────────────────────────────────────────────────────

  // What stylesheets write before a text becomes an element, which has a place.
  function materialised() {
    for (const node of document.querySelectorAll("body *")) {
      const style = getComputedStyle(node, "::before");
      const said = /^"(.+?)"/.exec(style.content);
      if (!said || style.display === "none") continue;
      const made = document.createElement("span");
      made.textContent = said[1];
      node.prepend(made);
    }
    const off = new CSSStyleSheet();
    off.insertRule("*::before { content: none !important; }");
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, off];
  }

  function walked(node, clip, decoration, later) {
    const style = getComputedStyle(node);
    if (style.opacity !== "1" && style.opacity !== "0") return faded(node, style, clip, decoration);
    if (style.display === "none" || style.visibility === "hidden" || style.opacity === "0") return "";
    if (style.clipPath.startsWith("inset(50%")) return "";
    const box = plain(node.getBoundingClientRect());
    if (later && style.position !== "static" && Number(style.zIndex) > 0) {
      later.push({ rank: Number(style.zIndex), drawn: () => stacked(node, style.position === "fixed" ? WINDOW : clip, decoration) });
      return "";
    }
    if (node.localName === "svg") return plot(node, clip);
    if (node.localName === "progress") return bar(node, style, box, clip);
    if (node.localName === "input" && ["checkbox", "radio"].includes(node.type)) return outside(box, clip) ? "" : ticked(node, style, box, clip);
    const drawn = [];
    if (style.display !== "contents" && node !== document.body) {
      if (style.display === "inline") drawn.push(...[...node.getClientRects()].map((one) => boxes(node, style, one, clip)));
      else drawn.push(boxes(node, style, box, clip));
    }
    if (style.display === "list-item") drawn.push(listMark(node, style, box, clip));
    if (!outside(box, clip) && node.localName === "mfrac") drawn.push(fraction(node, style, box));
    if (!outside(box, clip) && node.localName === "msqrt") drawn.push(root(node, style, box));
    // What is a box of its own within a line does not take over the line under that line.
    const given = style.display.startsWith("inline-") ? "" : decoration;
    const lines = style.textDecorationLine === "none" ? given : style.textDecorationLine + (style.textDecorationStyle === "dotted" ? " dotted" : "");
    const cuts = style.overflowX !== "visible" && style.display !== "inline";
    const inner = cuts ? within(clip, { left: box.left + node.clientLeft, top: box.top + node.clientTop, right: box.left + node.clientLeft + node.clientWidth, bottom: box.top + node.clientTop + node.clientHeight }) : clip;
    for (const child of node.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) drawn.push(letters(child, style, inner, lines));
      else if (child.nodeType === Node.ELEMENT_NODE) drawn.push(walked(child, inner, lines, later));
    }
    return drawn.join("");
  }

  // An element with what it holds; what is raised above the rest comes last.
  function stacked(node, clip, decoration) {
    const later = [];
    const style = getComputedStyle(node);
    const first = walkedRaised(node, style, clip, decoration, later);
    return first + later.sort((one, other) => one.rank - other.rank).map((one) => one.drawn()).join("");
  }

  function faded(node, style, clip, decoration) {
    const drawn = stacked(node, clip, decoration);
    return drawn && element("g", { opacity: style.opacity.replace(/^0/, "") }, drawn);
  }

  // The element itself is not put off once more.
  function walkedRaised(node, style, clip, decoration, later) {
    const box = plain(node.getBoundingClientRect());
    const own = node === document.body ? "" : boxes(node, style, box, clip);
    const inside = [...node.childNodes].map((child) =>
      child.nodeType === Node.TEXT_NODE ? letters(child, style, clip, decoration)
        : child.nodeType === Node.ELEMENT_NODE ? walked(child, clip, decoration, later) : "");
    return own + inside.join("");
  }

  const WINDOW = { left: 0, top: 0, right: WIDE, bottom: HIGH };
  materialised();
  const paper = rectangle(WINDOW, 0, WINDOW, painted("fill", getComputedStyle(document.body).backgroundColor));
  const frame = rectangle(grown(WINDOW, -0.5), 0, WINDOW, { fill: "none", stroke: "#888", "stroke-opacity": 0.4 });
  const drawn = paper + stacked(document.body, WINDOW, "") + frame;
  const rules = [...classes].map(([rule, id]) => `.${id}{${rule}}`).join("\n");
  const made = [...definitions].map(([what, id]) => what.replace('"@"', `"${id}"`)).join("\n");
  const parts = [`<title>${escaped(name)}</title>`, `<style>${escaped(rules).replaceAll("&#34;", '"')}</style>`, made && `<defs>${made}</defs>`, drawn];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDE} ${HIGH}" width="${WIDE}" height="${HIGH}">\n` +
    parts.filter(Boolean).join("\n").replace(/></g, ">\n<") + "\n</svg>\n";
};
