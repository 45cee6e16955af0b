"""The languages of Whisper, in the order of their tokens (Radford et al. 2022)."""

from zoo.utils.errors import did_you_mean

# code=name; the models before large-v3 lack the last one.
_NAMES = """
    en=english zh=chinese de=german es=spanish ru=russian ko=korean fr=french ja=japanese pt=portuguese
    tr=turkish pl=polish ca=catalan nl=dutch ar=arabic sv=swedish it=italian id=indonesian hi=hindi fi=finnish
    vi=vietnamese he=hebrew uk=ukrainian el=greek ms=malay cs=czech ro=romanian da=danish hu=hungarian ta=tamil
    no=norwegian th=thai ur=urdu hr=croatian bg=bulgarian lt=lithuanian la=latin mi=maori ml=malayalam cy=welsh
    sk=slovak te=telugu fa=persian lv=latvian bn=bengali sr=serbian az=azerbaijani sl=slovenian kn=kannada
    et=estonian mk=macedonian br=breton eu=basque is=icelandic hy=armenian ne=nepali mn=mongolian bs=bosnian
    kk=kazakh sq=albanian sw=swahili gl=galician mr=marathi pa=punjabi si=sinhala km=khmer sn=shona yo=yoruba
    so=somali af=afrikaans oc=occitan ka=georgian be=belarusian tg=tajik sd=sindhi gu=gujarati am=amharic
    yi=yiddish lo=lao uz=uzbek fo=faroese ht=haitian_creole ps=pashto tk=turkmen nn=nynorsk mt=maltese
    sa=sanskrit lb=luxembourgish my=myanmar bo=tibetan tl=tagalog mg=malagasy as=assamese tt=tatar haw=hawaiian
    ln=lingala ha=hausa ba=bashkir jw=javanese su=sundanese yue=cantonese
"""
_OTHER_NAMES = """
    my=burmese ca=valencian nl=flemish ht=haitian lb=letzeburgesch ps=pushto pa=panjabi ro=moldavian ro=moldovan
    si=sinhalese es=castilian zh=mandarin
"""

LANGUAGES = {code: name.replace("_", " ") for code, name in (pair.split("=") for pair in _NAMES.split())}
CODES = {name: code for code, name in LANGUAGES.items()} | {
    name: code for code, name in (pair.split("=") for pair in _OTHER_NAMES.split())
}


def language_code(language: str) -> str:
    """The code of a language, given as code, name or token: "en", "English" and "<|en|>" are "en".

    Raises ValueError for another one.
    """
    if not isinstance(language, str):
        raise ValueError(f"language={language!r:.200}: expected a text, such as 'en' or 'english'")
    name = language.lower().removeprefix("<|").removesuffix("|>")
    code = CODES.get(name, name)
    if code not in LANGUAGES:
        near = did_you_mean(name, [*CODES, *LANGUAGES])
        raise ValueError(
            f"language={language!r} is not a language of Whisper{near}: expected a code or a name, such as 'en' or "
            f"'english'"
        )
    return code
