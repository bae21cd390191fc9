// What a mail looks like in a browser. Contrasts are WCAG's: of each text with the surface below it, of each button with
// the card below it.
(() => {
  const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(Number)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((x, y) => y - x);
    return (x + 0.05) / (y + 0.05); };
  const under = e => { const c = getComputedStyle(e).backgroundColor;
    return c === 'rgba(0, 0, 0, 0)' ? under(e.parentElement) : c; };
  const said = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
  const seen = e => e.getClientRects().length > 0;
  const texts = [...document.body.querySelectorAll('*')].filter(e => said(e) && seen(e));
  const buttons = [...document.querySelectorAll('.go a')];
  const page = document.documentElement;
  return {
    pale: texts.map(e => [contrast(getComputedStyle(e).color, under(e)), said(e)]).filter(([c]) => c < 4.5),
    texts: texts.length,
    tooWide: page.scrollWidth > page.clientWidth || texts.some(e => e.getBoundingClientRect().right > page.clientWidth),
    card: getComputedStyle(document.querySelector('.card')).backgroundColor,
    pageColour: getComputedStyle(document.body).backgroundColor,
    flatButtons: buttons.filter(b => contrast(under(b), under(b.closest('.go'))) < 3).length,
    smallButtons: buttons.filter(b => b.getBoundingClientRect().height < 44).length,
    preview: !seen(document.body.firstElementChild) && document.body.firstElementChild.textContent.trim(),
    text: document.body.innerText,
    small: texts.filter(e => parseFloat(getComputedStyle(e).fontSize) < 13).map(said),
    scripts: document.scripts.length,
  };
})()
