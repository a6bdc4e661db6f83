"""The README's first picture, in two languages and two themes: `python -m pictures.loop`.

The loop without a token directory on the host, and the cure.
"""

from __future__ import annotations

from pictures import IMAGES, template

TEMPLATE = template("loop")
TEXTS = {
    "en": {
        "title": "A KIS gateway without and with a token directory on the host",
        "problem": "Token in the container",
        "new": ("new container,", "no token"),
        "refused": "one a minute, per key",
        "exits": ("gateway exits,", "Docker restarts it"),
        "loop": "a crash loop in market hours",
        "cure": "Token on the host",
        "old": "old container",
        "next": "new container",
        "replaced": "replaced by",
        "directory": "host directory",
        "writes": "writes",
        "reads": "reads",
        "same": "same token, 0 issuances",
    },
    "ko": {
        "title": "토큰이 컨테이너 안에 있을 때와 호스트에 있을 때",
        "problem": "토큰이 컨테이너 안에 있으면",
        "new": ("새 컨테이너,", "토큰 없음"),
        "refused": "1분당 1회",
        "exits": ("게이트웨이 종료,", "Docker가 재시작"),
        "loop": "장중 크래시 루프",
        "cure": "토큰이 호스트에 있으면",
        "old": "이전 컨테이너",
        "next": "새 컨테이너",
        "replaced": "교체",
        "directory": "호스트의 디렉터리",
        "writes": "저장",
        "reads": "읽기",
        "same": "같은 토큰, 발급 0회",
    },
}
THEMES = {
    "light": {
        "text": "#1f2328", "faint": "#59636e", "line": "#8c959f", "fill": "#f6f8fa",
        "good": "#1a7f37", "good_fill": "#dafbe1", "bad": "#cf222e", "bad_fill": "#ffebe9",
    },
    "dark": {
        "text": "#e6edf3", "faint": "#9198a1", "line": "#6e7681", "fill": "#161b22",
        "good": "#3fb950", "good_fill": "#12261e", "bad": "#f85149", "bad_fill": "#3c1618",
    },
}  # fmt: skip


def picture(language: str, theme: str) -> str:
    text: str = TEMPLATE.render(TEXTS[language] | THEMES[theme])
    return text


def main() -> None:
    for language in TEXTS:
        for theme in THEMES:
            (IMAGES / f"loop.{language}.{theme}.svg").write_text(picture(language, theme), "utf-8")


if __name__ == "__main__":
    main()
