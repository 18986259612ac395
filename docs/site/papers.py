"""The papers that docstrings and methods cite, by the words that cite them."""

import re

PAPERS = {
    "Agarwal et al. (2021)": "https://arxiv.org/abs/2108.13264",
    "Ali et al. (2019)": "https://arxiv.org/abs/1810.10082",
    "Altschuler et al. (2017)": "https://arxiv.org/abs/1705.09634",
    "Berger (1982)": "https://doi.org/10.1080/00401706.1982.10487790",
    "Brown et al. (2017)": "https://arxiv.org/abs/1712.09665",
    "Fafchamps & Gubert (2007)": "https://doi.org/10.1016/j.jdeveco.2006.05.005",
    "Friedman (2001)": "https://doi.org/10.1214/aos/1013203451",
    "Gao & Chaudhari (2020)": "https://arxiv.org/abs/2002.12406",
    "Gao & Chaudhari (2021)": "https://arxiv.org/abs/2011.00613",
    "He et al. (2017)": "https://arxiv.org/abs/1707.06168",
    "Hoerl & Kennard (1970)": "https://doi.org/10.1080/00401706.1970.10488634",
    "Izmailov et al. (2018)": "https://arxiv.org/abs/1803.05407",
    "Krizhevsky (2009)": "https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf",
    "Kumar et al. (2022)": "https://arxiv.org/abs/2202.10054",
    "Li & Arora (2020)": "https://arxiv.org/abs/1910.07454",
    "Li et al. (2018)": "https://arxiv.org/abs/1802.01483",
    "Liu et al. (2018)": "https://arxiv.org/abs/1805.12185",
    "Mantel (1967)": "https://pubmed.ncbi.nlm.nih.gov/6018555/",
    "McNemar (1947)": "https://doi.org/10.1007/BF02295996",
    "Ribeiro et al. (2016)": "https://doi.org/10.1145/2939672.2939778",
    "Salman et al. (2022)": "https://arxiv.org/abs/2207.02842",
    "Salmon et al. (2011)": "https://doi.org/10.1145/2063384.2063405",
    "Schuirmann (1987)": "https://doi.org/10.1007/BF01068419",
    "Sha et al. (2022)": "https://arxiv.org/abs/2212.09067",
    "Snijders & Borgatti (1999)": "https://www.stats.ox.ac.uk/~snijders/Snijders_Borgatti.pdf",
    "Springenberg (2015)": "https://arxiv.org/abs/1412.6806",
    "Torgerson (1952)": "https://doi.org/10.1007/BF02288916",
    "Wang & Russakovsky (2023)": "https://arxiv.org/abs/2303.06167",
    "Wang et al. (2019)": "https://doi.org/10.1109/SP.2019.00031",
    "Wortsman et al. (2022)": "https://arxiv.org/abs/2109.01903",
    "Zeng et al. (2022)": "https://arxiv.org/abs/2110.03735",
    "Zhang et al. (2018)": "https://arxiv.org/abs/1710.09412",
    "Zheng et al. (2016)": "https://arxiv.org/abs/1604.04326",
}
_CITATION = re.compile("|".join(re.escape(name).replace(r"\ ", r"\s+") for name in PAPERS))


def linked(text: str, form: str) -> str:
    """The text with its citations as links.

    Args:
        text: may break its lines inside a citation.
        form: of a link, with `{name}` and `{address}`.
    """

    def link(found: re.Match[str]) -> str:
        name = " ".join(found.group().split())
        return form.format(name=name, address=PAPERS[name])

    return _CITATION.sub(link, text)
