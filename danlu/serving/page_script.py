"""What the browser does itself: draw the conversation, keep it for the tab, fold the settings away.

Messages become text nodes, never markup, so that nothing a model writes can vanish or do anything.
"""

DRAW = r"""
const log = element.querySelector(".log");
let isAtEnd = true;  // Who has scrolled up to read is left there.
log.addEventListener("scroll", () => { isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80; });
new ResizeObserver(() => { if (isAtEnd) log.scrollTop = log.scrollHeight; }).observe(log);

function partsOf(text) {
    // Fenced code apart from the rest; a fence that is still open reaches to the end.
    const parts = [{ name: null, lines: [] }];
    let fence = null;
    for (const line of text.split("\n")) {
        const mark = line.match(/^ {0,3}(`{3,})([^`]*)$/);
        if (fence === null && mark) {
            fence = mark[1];
            parts.push({ name: mark[2].trim(), lines: [] });
        } else if (fence !== null && mark && mark[1].length >= fence.length && !mark[2].trim()) {
            fence = null;
            parts.push({ name: null, lines: [] });
        } else {
            parts[parts.length - 1].lines.push(line);
        }
    }
    return parts.filter((part) => part.name !== null || part.lines.some((line) => line.trim()));
}

function made(tag, name, parent) {
    const node = document.createElement(tag);
    node.className = name;
    parent.append(node);
    return node;
}

function copyButton(parent, textOf) {
    const button = made("button", "copy", parent);
    button.type = "button";
    button.setAttribute("aria-label", "Copy 复制");
    button.onclick = async () => {
        try {
            await navigator.clipboard.writeText(textOf());
        } catch {  // Without HTTPS there is no clipboard but the selection's.
            const area = made("textarea", "", document.body);
            area.value = textOf();
            area.select();
            document.execCommand("copy");
            area.remove();
        }
        button.classList.add("done");
        setTimeout(() => button.classList.remove("done"), 1500);
    };
}

function drawPart(part, isCode) {
    if (!isCode) return made("div", "text", part);
    const code = made("div", "code", part);
    made("span", "code-name", code);
    copyButton(code, () => code.querySelector("pre").textContent);
    made("pre", "", code);
    return code;
}

function fill(bubble, message) {
    const isUser = message.role === "user";
    const parts = isUser ? [{ name: null, lines: [message.content] }] : partsOf(message.content);
    if (!parts.length) parts.push({ name: null, lines: [] });
    while (bubble.children.length > parts.length) bubble.lastChild.remove();
    parts.forEach((part, number) => {
        const isCode = part.name !== null;
        let node = bubble.children[number];
        if (node && node.classList.contains("code") !== isCode) {
            while (bubble.children.length > number) bubble.lastChild.remove();
            node = null;
        }
        node = node || drawPart(bubble, isCode);
        const text = part.lines.join("\n");
        const place = isCode ? node.querySelector("pre") : node;
        if (isCode) node.querySelector(".code-name").textContent = part.name;
        if (place.textContent !== text) place.textContent = text;
    });
}

function draw() {
    const messages = Array.isArray(props.value) ? props.value : [];
    const isLonger = messages.length > log.children.length;
    while (log.children.length > messages.length) log.lastChild.remove();
    messages.forEach((message, number) => {
        const row = log.children[number] || made("div", "row", log);
        row.className = "row " + (message.role === "user" ? "user" : "bot");
        const bubble = row.querySelector(".bubble") || made("div", "bubble", row);
        if (!row.querySelector(":scope > .copy")) copyButton(row, () => row.said);
        if (row.said !== message.content) fill(bubble, message);
        row.said = message.content;
    });
    if (isAtEnd || isLonger) log.scrollTop = log.scrollHeight;
}

window.danluDraw = draw;
watch("value", draw);
draw();
"""

RESTORE = """
(language, ...values) => {
    const preferred = localStorage.getItem("danlu-language") || navigator.language || language;
    document.documentElement.lang = preferred.toLowerCase().startsWith("zh") ? "zh" : "en";
    document.addEventListener("click", (event) => {
        if (!event.target.closest("#settings, #open-settings")) document.body.classList.remove("settings-open");
    });
    const kept = JSON.parse(sessionStorage.getItem("danlu " + document.title) || "[]");
    window.danluKeeps = true;
    return [document.documentElement.lang, ...(kept.length === values.length ? kept : values)];
}
"""
"""Brings back what this tab had before it was loaded again. `sessionStorage` is the tab's own, so that no tab shows
another's conversation."""

KEEP = """
(...values) => {
    if (window.danluKeeps) sessionStorage.setItem("danlu " + document.title, JSON.stringify(values));
    if (window.danluDraw) window.danluDraw();
}
"""

SPEAK = """
(language) => {
    localStorage.setItem("danlu-language", language);
    document.documentElement.lang = language;
    return language;
}
"""

FOLD = '() => { document.body.classList.toggle("settings-open"); }'
